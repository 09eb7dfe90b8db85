#!/usr/bin/env python3
"""Classifies a picture with numpy arrays: classify_numpy.py [PICTURE]

    pip install ./runtime/python pillow      # or, without installing: QCC=target/debug/qcc PYTHONPATH=runtime/python
"""
import pathlib
import sys

import numpy as np
import qcc
from PIL import Image

models = pathlib.Path(__file__).parent / "models"
picture = sys.argv[1] if len(sys.argv) > 1 else models / "ship.jpg"
model = qcc.compile(models / "resnet_cifar10.onnx", preset="cifar10")
image = np.asarray(Image.open(picture).convert("RGB").resize((32, 32)), np.float32) / 255
image = ((image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)[None]
scores = model.run(image)[0]
names = (models / "cifar10.txt").read_text().split()
for i in scores.argsort()[::-1][:3]:
    print(f"{scores[i]:8.3f}  {names[i]}")
