//! The files for Kubernetes, Istio and Envoy Gateway say only what their schemas know.
//!
//! Its one rule: a field that a cluster would drop in silence is an error here, at its place.
//! It does not know what a field does: the end-to-end tests serve what the files give to Envoy.

use std::fs;
use std::path::{Path, PathBuf};

use envoy_idempotency::config::Config;
use serde_json::Value;

/// Each kind's fields, by `deploy/distil_fields.py`.
fn fields() -> Value {
    serde_json::from_str(include_str!("manifest_fields.json")).expect("the list is JSON")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file with manifests.
fn files() -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![root().join("deploy/kubernetes")], Vec::new());
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() { &mut folders } else { &mut files }.push(path);
        }
    }
    files.extend(["envoy/istio.yaml", "deploy/envoy-gateway.yaml"].map(|file| root().join(file)));
    files
}

/// The objects of a file; none where it is of Envoy's or of Kustomize's own kind.
fn objects(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    // A patch may be a list.
    let trees: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    trees.into_iter().filter(|tree| tree["kind"].is_string() && tree["kind"] != "Kustomization").collect()
}

/// What the object has that its kind does not.
fn unknown(value: &Value, allowed: &Value, place: &str, found: &mut Vec<String>) {
    let is_of_type = |name: &str| match name {
        "any" => true,
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64(),
        "number" => value.is_number(),
        "integer or string" => value.is_i64() || value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    };
    match (allowed, value) {
        // In a patch, what is to go.
        (_, Value::Null) => {}
        (Value::String(name), _) if is_of_type(name) => {}
        (Value::Object(names), Value::Object(members)) => {
            for (name, value) in members {
                match names.get(name).or(names.get("*")) {
                    Some(allowed) => unknown(value, allowed, &format!("{place}/{name}"), found),
                    None => found.push(format!("{place}/{name} is not known")),
                }
            }
        }
        (Value::Array(item), Value::Array(items)) => {
            for (number, value) in items.iter().enumerate() {
                unknown(value, &item[0], &format!("{place}/{number}"), found);
            }
        }
        _ => found.push(format!("{place} must be {allowed}, is {value}")),
    }
}

#[test]
fn every_field_of_the_manifests_is_one_that_its_kind_has() {
    let (fields, mut count, mut found) = (fields(), 0, Vec::new());
    for file in files() {
        for object in objects(&file) {
            let text = |member: &str| object[member].as_str().unwrap_or_default();
            let kind = format!("{} {}", text("apiVersion"), text("kind"));
            let shown = file.strip_prefix(root()).unwrap().display();
            match fields.get(&kind) {
                Some(allowed) => unknown(&object, allowed, &format!("{shown} {kind}"), &mut found),
                None => found.push(format!("{shown}: no list of the fields of {kind}")),
            }
            count += 1;
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(count >= 10, "only {count} objects were found");
}

#[test]
fn a_field_that_is_mistyped_is_noticed_wherever_it_stands() {
    let fields = fields();
    let file = root().join("deploy/kubernetes/base/deployment.yaml");
    let right = objects(&file).remove(0);
    let mutated = |pointer: &str, name: &str, value: Value| {
        let mut object = right.clone();
        object.pointer_mut(pointer).expect("the place is there")[name] = value;
        let mut found = Vec::new();
        unknown(&object, &fields["apps/v1 Deployment"], "", &mut found);
        found
    };
    assert_eq!(mutated("/spec", "replicas", 2.into()), [""; 0]);
    assert_eq!(mutated("/spec", "replica", 2.into()), ["/spec/replica is not known"]);
    assert_eq!(mutated("/spec", "replicas", "2".into()), [r#"/spec/replicas must be "integer", is "2""#]);
    let image = "/spec/template/spec/volumes/1/image";
    assert_eq!(mutated(image, "ref", "x".into()), [format!("{image}/ref is not known")]);
}

#[test]
fn every_document_in_the_manifests_is_taken() {
    let mut count = 0;
    for file in files().iter().filter(|file| file.ends_with("filter.yaml") || file.ends_with("envoy-gateway.yaml")) {
        let trees: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(file).unwrap()).unwrap();
        let places = ["/resources/0/typed_config/config/configuration/value", "/spec/wasm/0/config"];
        for document in trees.iter().flat_map(|tree| places.iter().filter_map(|place| tree.pointer(place))) {
            let read = Config::parse(document.to_string().as_bytes(), &|_| Some("0f1e2d3c".to_owned()));
            assert!(read.is_ok(), "{}: {:?}", file.display(), read.err());
            // As the Secret is shipped.
            let empty = Config::parse(document.to_string().as_bytes(), &|_| Some(String::new()));
            let has_secret = document.get("secrets").is_some();
            assert_eq!(empty.is_err(), has_secret, "{}: an empty secret is refused", file.display());
            count += 1;
        }
    }
    assert_eq!(count, 4);
}

#[test]
fn every_image_of_the_module_is_of_this_version() {
    let mut count = 0;
    for file in files() {
        let text = fs::read_to_string(&file).unwrap();
        for rest in text.split("registry.example.com/envoy-idempotency:").skip(1) {
            let version: String = rest.chars().take_while(|c| !c.is_whitespace()).collect();
            assert_eq!(version, env!("CARGO_PKG_VERSION"), "{}", file.display());
            count += 1;
        }
    }
    assert!(count >= 4, "only {count} images were found");
}
