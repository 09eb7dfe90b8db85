//! ONNX files into graphs
