"""Writes what the command `qcc` consists of as a CycloneDX 1.5 document: `python3 tests/sbom.py sbom.json`.

Components are the crates that the release build links, build scripts and macros among them, as `Cargo.lock` has them: name, version,
licence, the registry's SHA-256, and who depends on whom. Needs cargo and Python's standard library; equal trees give equal documents.
"""
import json
import pathlib
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main(out):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    packages = {p["id"]: p for p in metadata["packages"]}
    nodes = {n["id"]: n for n in metadata["resolve"]["nodes"]}
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    root = next(i for i, p in packages.items() if p["name"] == "qcc" and i in metadata["workspace_members"])

    def linked(package):
        kinds = lambda dependency: any(k["kind"] in (None, "build") for k in dependency["dep_kinds"])
        return [d["pkg"] for d in nodes[package]["deps"] if kinds(d)]

    def reference(package):
        return "pkg:cargo/{name}@{version}".format(**packages[package])

    found, waiting = set(), [root]
    while waiting:
        package = waiting.pop()
        if package not in found:
            found.add(package)
            waiting.extend(linked(package))

    def component(package):
        p = packages[package]
        out = {"type": "application" if package == root else "library", "bom-ref": reference(package), "name": p["name"],
               "version": p["version"], "purl": reference(package)}
        if p.get("license"):
            out["licenses"] = [{"expression": p["license"].replace("/", " OR ")}]
        checksum = checksums.get((p["name"], p["version"]))
        if checksum:
            out["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return out

    order = sorted(found, key=reference)
    document = {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": component(root)},
        "components": [component(p) for p in order if p != root],
        "dependencies": [{"ref": reference(p), "dependsOn": sorted({reference(d) for d in linked(p)})} for p in order],
    }
    pathlib.Path(out).write_text(json.dumps(document, indent=1) + "\n")
    print(f"{len(order)} components in {out}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
