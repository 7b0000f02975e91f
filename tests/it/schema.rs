//! The JSON Schema of the operator's document, `docs/config.schema.json`: what editors know of it.
//!
//! Its one rule: it is held against the parser itself, whose messages name every field, word and bound; no field is
//! listed here.
//! It does not know what a document means.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use boon::{Compiler, SchemaIndex, Schemas};
use envoy_idempotency::config::{Config, ConfigError, Document};
use harness::gateway::{shipped, yaml};
use serde_json::{Map, Value, json};

#[test]
fn it_is_a_schema_itself() {
    let mut broken = SCHEMA.clone();
    broken["properties"]["rules"]["type"] = json!("list");
    assert!(compiled(broken).is_err(), "what is no schema does not pass for one");
    assert_eq!(SCHEMA["$schema"], "https://json-schema.org/draft/2020-12/schema");
    compiled(SCHEMA.clone()).unwrap();
}

#[test]
fn it_accepts_every_configuration_that_is_shipped() {
    let mut count = 0;
    let folders = ["", "presets/"].map(|folder| (folder, fs::read_dir(root().join("envoy").join(folder)).unwrap()));
    let entries = folders.into_iter().flat_map(|(folder, entries)| entries.map(move |entry| (folder, entry.unwrap())));
    for (folder, entry) in entries.filter(|(_, entry)| entry.path().is_file()) {
        let name = format!("{folder}{}", entry.file_name().into_string().unwrap());
        let mut texts = Vec::new();
        string_values(&shipped(&name).unwrap(), &mut texts);
        assert!(!texts.is_empty() || name == "compose.yaml", "{name} configures nothing");
        // The documents of the module's other plugins.
        let is_gateways = |text: &str| {
            let read = Document::parse(text.as_bytes(), &|_| Some(KEY.into()));
            !matches!(read, Ok(Document::Framing | Document::Operator(..)))
        };
        texts.retain(|text| is_gateways(text));
        count += texts.len();
        texts.iter().for_each(|text| accepts(text, &name));
    }
    assert!(count >= 11, "only {count} configurations were found");
}

#[test]
fn it_accepts_every_example_of_the_documents() {
    let mut count = 0;
    let folders = ["docs", "docs/deploy"].map(|folder| fs::read_dir(root().join(folder)).unwrap());
    let documents = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
    for file in documents.chain([root().join("README.md")]).filter(|file| file.extension().is_some_and(|it| it == "md"))
    {
        let text = fs::read_to_string(&file).unwrap();
        for block in text.split("```").skip(1).step_by(2) {
            let (language, block) = block.split_once('\n').unwrap();
            let example = match language {
                "json" => block.to_owned(),
                "yaml" if block.contains("google.protobuf.Struct") => {
                    yaml(block).unwrap()["configuration"]["value"].to_string()
                }
                "yaml" => block.split_once("value: |").map_or_else(String::new, |(_, value)| value.to_owned()),
                _ => String::new(),
            };
            // What is no document of ours, such as the configuration of Webdis, has none of its members.
            let members = serde_json::from_str::<Map<String, Value>>(&example).unwrap_or_default();
            if members.keys().any(|name| SCHEMA["properties"].get(name).is_some()) {
                count += 1;
                accepts(&example, &file.display().to_string());
            }
        }
    }
    assert!(count >= 3, "only {count} examples were found");
}

#[test]
fn its_objects_have_the_fields_that_the_parser_knows() {
    let mut count = 0;
    for place in places().iter().filter(|place| place.node["additionalProperties"] == false) {
        let mut names: BTreeSet<_> = place.node["properties"].as_object().unwrap().keys().cloned().collect();
        if place.node.get("patternProperties").is_some() {
            names.insert("200 to 599".to_owned());
        }
        let known = BTreeSet::from_iter(place.known());
        let of_one: Vec<_> = known.symmetric_difference(&names).collect();
        assert!(of_one.is_empty(), "{}: the parser and the schema do not both know {of_one:?}", place.pointer);
        count += names.len();
    }
    assert!(count > 100, "only {count} fields were found");
}

#[test]
fn its_numbers_have_the_bounds_that_the_parser_has() {
    let mut count = 0;
    for place in places().iter().filter(|place| place.has_type("integer")) {
        let [least, most] = ["minimum", "maximum"]
            .map(|bound| place.node[bound].as_i64().unwrap_or_else(|| panic!("{}", place.pointer)));
        for (number, message) in [(least - 1, format!("at least {least}")), (most + 1, format!("at most {most}"))] {
            let wanted = format!("{}: must be {message}, is {number}", place.pointer);
            assert_eq!(refusal(&place.document_as(json!(number))), wanted);
        }
        count += 1;
    }
    assert!(count > 30, "only {count} numbers were found");
}

#[test]
fn its_words_are_those_that_the_parser_takes() {
    let mut count = 0;
    for place in places() {
        let Some(words) = place.node["enum"].as_array() else { continue };
        let words: Vec<_> = words.iter().filter(|word| !word.is_null()).map(Value::to_string).collect();
        let wanted = format!("{}: must be {}, is \"?\"", place.pointer, words.join(" or "));
        assert_eq!(refusal(&place.document_as(json!("?"))), wanted);
        count += 1;
    }
    assert!(count > 30, "only {count} lists of words were found");
}

#[test]
fn it_takes_of_all_values_what_the_parser_takes() {
    let mut values: Vec<Value> = VALUES.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    values.extend([33, 129, 256, 1025].map(|length| json!("x".repeat(length))));
    let mut refused = 0;
    for place in places() {
        for value in &values {
            let document = place.document_as(value.clone());
            let parsed = parse(&document);
            agrees(&document.to_string(), &parsed);
            let Err(error) = parsed.map_err(|error| error.to_string()) else { continue };
            let (above, _) = place.pointer.rsplit_once('/').unwrap_or_default();
            let is_near = error.starts_with(above) || BEYOND.iter().any(|text| error.contains(text));
            assert!(is_near, "{document} is wrong in {}, and the parser says: {error}", place.pointer);
            refused += 1;
        }
    }
    assert!(refused > 1000, "only {refused} documents were refused");
}

#[test]
fn its_types_are_those_that_the_parser_asks_for() {
    let mut count = 0;
    for place in places().iter().filter(|place| !place.is_alternative) {
        let types =
            [("integer", "a whole number"), ("boolean", "true or false"), ("array", "a list"), ("object", "an object")];
        let Some((_, wanted)) = types.into_iter().find(|(name, _)| place.has_type(name)) else { continue };
        let message = refusal(&place.document_as(json!("?")));
        let place = if place.pointer.is_empty() { "the document" } else { &place.pointer };
        assert!(message.starts_with(&format!("{place}: must be {wanted}, is ")), "{message}");
        count += 1;
    }
    assert!(count > 60, "only {count} types were found");
}

#[test]
fn its_defaults_are_those_of_the_parser() {
    let mut count = 0;
    for place in places() {
        let Some(default) = place.node.get("default") else {
            // How long a record lives hangs on the store; one of many parts is nothing by itself.
            let is_free = place.is_required || place.is_alternative || place.pointer.ends_with("/ttl_s");
            let is_simple = place.node.get("enum").is_some() || place.has_type("integer") || place.has_type("boolean");
            assert!(is_free || !is_simple, "{} has no default", place.pointer);
            continue;
        };
        let (given, absent) = (parse(&place.document_as(default.clone())), parse(&place.document));
        let shown = |parsed: Result<Config, ConfigError>| {
            let mut config = parsed.unwrap_or_else(|error| panic!("{}: {error}", place.pointer));
            // Some warnings are about what was written, be it the default or not.
            config.warnings.clear();
            format!("{config:?}")
        };
        assert_eq!(shown(given), shown(absent), "{}", place.pointer);
        count += 1;
    }
    assert!(count > 80, "only {count} defaults were found");
}

/// Holds a document against the schema, once the parser has judged it: the schema accepts what the parser accepts, and
/// refuses what the parser refuses for its shape.
#[track_caller]
pub fn agrees(document: &str, parsed: &Result<Config, ConfigError>) {
    let Ok(value) = serde_json::from_str(document) else { return };
    let (schemas, schema) = &*COMPILED;
    let reply = schemas.validate(&value, *schema);
    match parsed {
        Ok(_) => assert!(reply.is_ok(), "the schema refuses {document}: {}", reply.unwrap_err()),
        Err(error) if is_beyond(&value, &error.to_string()) => {}
        Err(error) => assert!(reply.is_err(), "the schema accepts {document}, and the parser says: {error}"),
    }
}

/// Whether a complaint is about what no schema can know: the text itself, the environment, or fields that contradict
/// each other.
fn is_beyond(document: &Value, complaint: &str) -> bool {
    let place = document.pointer(complaint.split(':').next().unwrap());
    let is_of_variable = place.is_some_and(|value| value["env"].is_string());
    let is_of_merging = complaint.starts_with("/rules/") && complaint.contains("/policy/execution: must have ");
    is_of_variable || is_of_merging || BEYOND.iter().any(|text| complaint.contains(text))
}

#[track_caller]
fn accepts(document: &str, place: &str) {
    let parsed = Config::parse(document.as_bytes(), &|_| Some(KEY.into()));
    assert!(parsed.is_ok(), "{place}: {}", parsed.unwrap_err());
    agrees(document, &parsed);
}

fn parse(document: &Value) -> Result<Config, ConfigError> {
    Config::parse(document.to_string().as_bytes(), &|_| Some(KEY.into()))
}

fn refusal(document: &Value) -> String {
    parse(document).map_or_else(|error| error.to_string(), |_| format!("{document} was accepted"))
}

/// A node of the schema, and where in a document stands what it is about.
pub struct Place {
    pub pointer: String,
    /// A document that is right, in which everything is that must be there for this place to be.
    document: Value,
    /// With what it refers to in place of the reference.
    pub node: Value,
    pub is_required: bool,
    /// One of several forms, or of several members of which an object has just one.
    pub is_alternative: bool,
}

impl Place {
    fn document_as(&self, value: Value) -> Value {
        let mut document = self.document.clone();
        set(&mut document, &self.pointer, value);
        document
    }

    fn document_with(&self, name: &str, value: Value) -> Value {
        let mut object = required(&self.node);
        object.insert(name.to_owned(), value);
        self.document_as(object.into())
    }

    /// The fields that the parser knows here, in the order in which it reads them.
    pub fn known(&self) -> Vec<String> {
        let message = refusal(&self.document_with("?", json!(1)));
        let start = format!("{}/?: is not a known field; known here: ", self.pointer);
        let known = message.strip_prefix(&start).unwrap_or_else(|| panic!("{}: {message}", self.pointer));
        known.split(", ").map(str::to_owned).collect()
    }

    pub fn has_type(&self, name: &str) -> bool {
        let given = &self.node["type"];
        given == name || given.as_array().is_some_and(|types| types.iter().any(|it| it == name))
    }
}

/// Every place of the schema, those below a reference once for each reference.
pub fn places() -> Vec<Place> {
    let mut found = Vec::new();
    let root = Place {
        pointer: String::new(),
        document: json!({}),
        node: SCHEMA.clone(),
        is_required: true,
        is_alternative: false,
    };
    visit(root, &mut Vec::new(), &mut found);
    found
}

fn visit(mut place: Place, trail: &mut Vec<String>, found: &mut Vec<Place>) {
    let followed = trail.len();
    while let Some(Value::String(target)) = place.node.as_object_mut().and_then(|node| node.remove("$ref")) {
        // A part may hold parts.
        if trail.contains(&target) {
            return;
        }
        let mut node = SCHEMA.pointer(target.trim_start_matches('#')).unwrap().clone();
        node.as_object_mut().unwrap().extend(place.node.as_object().unwrap().clone());
        place.node = node;
        trail.push(target);
    }
    // Requests under a lock need a key.
    if let Some(policy) = place.pointer.strip_suffix("/serialize") {
        let key = format!("{policy}/key");
        set(&mut place.document, &key, json!({ "required": true }));
    }
    let below = |pointer: String, document: &Value, node: &Value| Place {
        pointer,
        document: document.clone(),
        node: node.clone(),
        is_required: false,
        is_alternative: false,
    };
    for name in ["else", "then"] {
        if let Some(node) = place.node.get(name) {
            visit(below(place.pointer.clone(), &place.document, node), trail, found);
        }
    }
    for (name, is_alternative) in [("allOf", false), ("anyOf", true)] {
        for node in place.node[name].as_array().into_iter().flatten() {
            let part = below(place.pointer.clone(), &place.document, node);
            visit(Place { is_alternative, ..part }, trail, found);
        }
    }
    if place.node["additionalProperties"] == false {
        let document = place.document_as(required(&place.node).into());
        let is_alternative = place.is_alternative || place.node["maxProperties"] == 1;
        for (name, node) in place.node["properties"].as_object().unwrap() {
            let is_required = place.node["required"].as_array().is_some_and(|names| names.contains(&json!(name)));
            let member = below(format!("{}/{name}", place.pointer), &document, node);
            visit(Place { is_required, is_alternative, ..member }, trail, found);
        }
        for node in place.node["patternProperties"].as_object().into_iter().flat_map(Map::values) {
            let member = below(format!("{}/503", place.pointer), &document, node);
            visit(Place { is_alternative: true, ..member }, trail, found);
        }
    }
    if let Some(node) = place.node.get("items") {
        let document = place.document_as(json!([]));
        visit(below(format!("{}/0", place.pointer), &document, node), trail, found);
    }
    trail.truncate(followed);
    found.push(place);
}

/// The members that an object of this form must have, each as the schema's first example has it.
fn required(node: &Value) -> Map<String, Value> {
    let names = node["required"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap());
    names.map(|name| (name.to_owned(), node["properties"][name]["examples"][0].clone())).collect()
}

/// Puts a value where this pointer points; what is above it is there, and a list takes it as its next item.
fn set(document: &mut Value, pointer: &str, value: Value) {
    let Some((above, name)) = pointer.rsplit_once('/') else {
        *document = value;
        return;
    };
    match document.pointer_mut(above) {
        Some(Value::Array(items)) => *items = vec![value],
        Some(Value::Object(members)) => drop(members.insert(name.to_owned(), value)),
        other => panic!("{pointer} stands in {other:?}"),
    }
}

/// The values of every StringValue in a tree.
fn string_values(node: &Value, found: &mut Vec<String>) {
    match node {
        Value::Array(items) => items.iter().for_each(|item| string_values(item, found)),
        Value::Object(members) => {
            if node["@type"].as_str().is_some_and(|name| name.ends_with("google.protobuf.StringValue")) {
                found.push(node["value"].as_str().unwrap().to_owned());
            }
            members.values().for_each(|member| string_values(member, found));
        }
        _ => {}
    }
}

/// A schema that can be asked, or why it is none.
fn compiled(schema: Value) -> Result<(Schemas, SchemaIndex), String> {
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource("config.schema.json", schema).map_err(|error| error.to_string())?;
    let index = compiler.compile("config.schema.json", &mut schemas).map_err(|error| error.to_string())?;
    Ok((schemas, index))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(&fs::read_to_string(root().join("docs/config.schema.json")).unwrap()).unwrap()
});

static COMPILED: LazyLock<(Schemas, SchemaIndex)> = LazyLock::new(|| compiled(SCHEMA.clone()).unwrap());

/// What a field is tried with: each of these is right somewhere, or just wrong.
const VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "-1",
    "0",
    "1",
    "1.5",
    "1e300",
    "[]",
    "[null]",
    r#"["a"]"#,
    "{}",
    r#"{"env": "A"}"#,
    r#"{"env": 5}"#,
    r#"{"header": "a", "query": "b"}"#,
    r#""""#,
    r#""a""#,
    r#""a b""#,
    r#""a\nb""#,
    r#""ä""#,
    r#""a=b""#,
    r#"":path""#,
    r#""POST""#,
    r#""post""#,
    r#""PUT PATCH""#,
    r#""*""#,
    r#""*.*.example.com""#,
    r#""api.*""#,
    r#""*.""#,
    r#""https://api.example.com""#,
    r#""[::1]:443""#,
    r#""::1""#,
    r#""/a""#,
    r#""/a?b""#,
    r#""/a#b""#,
    r#""/ä""#,
    r#""/a/**/b""#,
    r#""/a/*""#,
    r#""/a/{}""#,
    r#""/a/{b""#,
    r#""/a/{b}.json""#,
    r#""/a/{b}{c}""#,
    r#""a/{b}""#,
    r#""/a~2""#,
    r#""Authorization""#,
    // As base64: 31 bytes, 33, 32 without their padding, in the alphabet of URLs, in hex.
    r#""MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZQ==""#,
    r#""MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWZn""#,
    r#""MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY""#,
    r#""__________________________________________8=""#,
    r#""3031323334353637383961626364656630313233343536373839616263646566""#,
];

/// Parts of complaints about what no schema can know.
const BEYOND: &[&str] = &[
    " at line ",
    "names a variable that the VM's environment does not have",
    "must be less than ttl_s",
    "must exceed lease_ms",
    " in metrics, as that of ",
    "must be at least max_response_bytes",
    "carries responses of at most",
    "must be at most an eighth of max_bytes",
    "is the id of another key too",
    "must not have an empty caller with anonymous",
    "must not be true where key.inject makes the key",
    "must not be given unless key.required",
    "must not be given without secrets.issuing",
    "must be at most ttl_s of rule",
    "must have issuing, by which rule",
    "must not be \"required\" ",
    "must not be \"uuid\" with several key.sources",
    "must not be \"content\" with ",
    "must be false unless scope.anonymous is",
    "must be empty unless fingerprint.body is \"json\"",
    "must be absent unless fingerprint.body is \"json\"",
    "must not be given together with json_ignore",
];

/// Thirty-two bytes in base64: right wherever a variable may stand.
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
