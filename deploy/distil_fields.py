"""Distils what the files for Kubernetes, Istio and Envoy Gateway may say into tests/it/manifest_fields.json.

Its one rule: it keeps names and types of fields alone, and only of objects that those files use, each with all the fields
that it may have there. It copies no text of a schema.

    python3 deploy/distil_fields.py _definitions.json CRD.yaml... > tests/it/manifest_fields.json

The first is Kubernetes' own kinds as JSON Schema (PyPI carries them in kubernetes-validate), the others are
CustomResourceDefinitions of Istio (crd-all.gen.yaml) and Envoy Gateway. It wants PyYAML.
"""

import glob
import json
import os
import sys

import yaml

ROOT = os.path.join(os.path.dirname(__file__), "..")
MANIFESTS = ["deploy/kubernetes/**/*.yaml", "envoy/istio.yaml", "deploy/envoy-gateway.yaml"]


def documents(path):
    with open(path, encoding="utf-8") as file:
        # Envoy Gateway's files are templates of Helm in their first and last lines.
        text = "".join(line for line in file if not line.startswith("{{"))
    return [tree for tree in yaml.safe_load_all(text) if isinstance(tree, dict)]


def schemas(core, crds):
    """The schema of each kind, by its apiVersion and name."""
    found = {}
    for definition in core.values():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            version = f"{kind['group']}/{kind['version']}".lstrip("/")
            found[f"{version} {kind['kind']}"] = definition
    for path in crds:
        for tree in documents(path):
            spec = tree.get("spec", {})
            for version in spec.get("versions", []):
                name = f"{spec['group']}/{version['name']} {spec['names']['kind']}"
                found[name] = version["schema"]["openAPIV3Schema"]
    return found


def distil(schema, used, core):
    """The fields of what is used; a type's name for what has none of its own."""
    if "$ref" in schema:
        schema = core[schema["$ref"].split("/")[-1]]
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return "integer or string"
    fields = schema.get("properties")
    if fields:
        shown = lambda name: distil(fields[name], used[name], core) if name in used else type_of(fields[name], core)
        return {name: shown(name) for name in sorted(fields)} if isinstance(used, dict) else "object"
    if "items" in schema:
        merged = {}
        for item in used if isinstance(used, list) else []:
            merged = merge(merged, item)
        return [distil(schema["items"], merged, core)]
    if isinstance(schema.get("additionalProperties"), dict):
        return {"*": type_of(schema["additionalProperties"], core)}
    return type_of(schema, core)


def type_of(schema, core):
    if "$ref" in schema:
        return type_of(core[schema["$ref"].split("/")[-1]], core)
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return "integer or string"
    kind = schema.get("type", "any")
    kind = next(one for one in kind if one != "null") if isinstance(kind, list) else kind
    return "any" if schema.get("x-kubernetes-preserve-unknown-fields") else kind


def merge(one, other):
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: merge(one.get(name), other.get(name)) for name in one.keys() | other.keys()}
    if isinstance(one, list) and isinstance(other, list):
        return one + other
    return other if one in (None, {}) else one


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        core = json.load(file)["$defs"]
    known, used = schemas(core, sys.argv[2:]), {}
    for pattern in MANIFESTS:
        for path in glob.glob(os.path.join(ROOT, pattern), recursive=True):
            for tree in documents(path):
                kind = f"{tree.get('apiVersion')} {tree.get('kind')}"
                if kind in known:
                    used[kind] = merge(used.get(kind, {}), tree)
    fields = {kind: distil(known[kind], used[kind], core) for kind in sorted(used)}
    for kind in fields:
        names = {"annotations": {"*": "string"}, "labels": {"*": "string"}, "name": "string", "namespace": "string"}
        fields[kind].update(apiVersion="string", kind="string", metadata=names)
    json.dump(fields, sys.stdout, indent=1)
    print()


main()
