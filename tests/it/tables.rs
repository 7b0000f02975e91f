//! The tables of docs/configuration.md: made of the schema, in the order in which the parser reads the fields.
//!
//! Its one rule: nothing of a table is written here or there; `UPDATE_EXPECT=1` writes them again.
//! It does not know what a field does.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use expect_test::expect_file;
use serde_json::Value;

use crate::schema::{Place, places};

#[test]
fn the_tables_of_the_documents_are_those_of_the_schema() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let (text, places) = (fs::read_to_string(&page).unwrap(), places());
    let mut made = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once(START) {
        let (name, after) = after.split_once(" -->\n").unwrap();
        let (_, after) = after.split_once(END).unwrap_or_else(|| panic!("the table of {name} does not end"));
        let pointer = if name == "the document" { "" } else { name };
        let mut table = Table { places: &places, rows: String::new(), shown: BTreeSet::new() };
        table.add(pointer, "");
        made += &format!("{before}{START}{name} -->\n{HEAD}{}{END}", table.rows);
        rest = after;
    }
    expect_file![page].assert_eq(&(made + rest));
}

struct Table<'a> {
    places: &'a [Place],
    rows: String,
    shown: BTreeSet<String>,
}

impl Table<'_> {
    /// Adds the fields of the objects that may stand here; those that belong to more than one are shown once.
    fn add(&mut self, pointer: &str, prefix: &str) {
        for place in self.places.iter().filter(|place| place.pointer == pointer) {
            if place.node["additionalProperties"] != false {
                continue;
            }
            for name in place.known() {
                let below = format!("{pointer}/{}", if name == "200 to 599" { "503" } else { &name });
                if self.shown.insert(below.clone()) {
                    self.add_field(&below, &format!("{prefix}{name}"));
                }
            }
        }
    }

    fn add_field(&mut self, pointer: &str, name: &str) {
        let mut places = self.places.iter().filter(|place| place.pointer == pointer);
        let place = places.find(|place| place.node["description"].is_string());
        let place = place.unwrap_or_else(|| panic!("the schema does not describe {pointer}"));
        self.rows += &row(name, place);
        let has_own_table = ["/policy", "/rules/0/match", "/rules/0/policy"].contains(&pointer);
        if place.has_type("array") && !pointer.ends_with("/json") {
            let item = format!("{pointer}/0");
            let is_of_kinds = self.places.iter().any(|place| place.pointer == item && place.node["maxProperties"] == 1);
            if !is_of_kinds {
                self.add(&item, &format!("{name}[]."));
            }
        } else if place.node.get("anyOf").is_none() && !has_own_table {
            self.add(pointer, &format!("{name}."));
        }
    }
}

fn row(name: &str, place: &Place) -> String {
    let node = &place.node;
    let default = match node.get("default") {
        Some(default) => format!("`{default}`"),
        None if place.is_required && !place.is_alternative => "required".to_owned(),
        None => String::new(),
    };
    let description = node["description"].as_str().unwrap_or_default();
    let mut values = values(node);
    // Only where a rule patches it, and there any field may be null.
    values.retain(|value| value != "`null`" || !place.pointer.starts_with("/policy"));
    let meaning: Vec<_> = description.split(' ').map(linked).collect();
    let cells = [format!("`{name}`"), values.join(", "), default, meaning.join(" ")];
    format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

/// What a field may be.
fn values(node: &Value) -> Vec<String> {
    if let Some(forms) = node["anyOf"].as_array() {
        let mut found: Vec<String> = Vec::new();
        for value in forms.iter().flat_map(values) {
            if !found.contains(&value) {
                found.push(value);
            }
        }
        return found;
    }
    if node["$ref"] == "#/$defs/variable" {
        return vec!["`{\"env\": NAME}`".to_owned()];
    }
    if let Some(words) = node["enum"].as_array() {
        return words.iter().filter(|word| !word.is_null()).map(|word| format!("`{word}`")).collect();
    }
    if node["const"] == true {
        return vec!["`true`".to_owned()];
    }
    let types = match &node["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        name => Vec::from_iter(name.as_str()),
    };
    let bounds = [&node["minimum"], &node["maximum"]];
    let shown = types.into_iter().map(|name| match name {
        "integer" => format!("{} to {}", bounds[0], bounds[1]),
        "boolean" => "`true`, `false`".to_owned(),
        "array" => "list".to_owned(),
        "string" => "text".to_owned(),
        "null" => "`null`".to_owned(),
        name => name.to_owned(),
    });
    shown.collect()
}

/// The name of a document as a link to it.
fn linked(word: &str) -> String {
    let start = word.find("docs/").unwrap_or(word.len());
    let end = word.rfind(|char: char| char.is_alphanumeric()).map_or(start, |last| last + 1).max(start);
    let (before, path, after) = (&word[..start], &word[start..end], &word[end..]);
    match path.strip_prefix("docs/") {
        Some(file) => format!("{before}[docs/{}]({file}){after}", file.split('#').next().unwrap_or_default()),
        None => word.to_owned(),
    }
}

const START: &str = "<!-- table of ";
const END: &str = "<!-- end -->";
const HEAD: &str = "| field | values | default | meaning |\n|---|---|---|---|\n";
