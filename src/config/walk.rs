//! How a JSON document is walked: every value is read at its place, and every complaint names that place.
//!
//! Its one rule: no message shows a value that lies under a place marked secret.
//! It does not know what any field means.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::protobuf::parse_struct;
use crate::json::{self, Path};

/// Why a document was refused: one sentence, with the JSON Pointer of the fault in front.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::box_collection, reason = "each reader hands it on, and one word makes for an eighth less code there")]
pub struct ConfigError(Box<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// What reading a value gives.
pub type Read<T> = Result<T, ConfigError>;

/// What a document gives by one of a few words.
pub trait Choice: Copy + Default + 'static {
    /// Each of them with its meaning.
    const WORDS: &[(&str, Self)];
}

/// How the value of one field is read.
pub type Reader<T> = fn(&Place<'_>, &Value) -> Read<T>;

/// Where in the document a value stands, as a chain up to the root.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    path: Path<'a>,
    /// Values below are not to be shown.
    secret: bool,
    /// Null members are absent, as in a JSON Merge Patch.
    patch: bool,
    warnings: &'a RefCell<Vec<String>>,
}

impl<'a> Place<'a> {
    /// The whole document; warnings about anything in it go to the list.
    pub fn root(warnings: &'a RefCell<Vec<String>>) -> Self {
        Place { path: Path::Root, secret: false, patch: false, warnings }
    }

    /// A member of the object that stands here.
    pub fn member(&'a self, name: &'a str) -> Place<'a> {
        Place { path: Path::Member(&self.path, name), ..*self }
    }

    /// An item of the list that stands here.
    pub fn item(&'a self, index: usize) -> Place<'a> {
        // RFC 7396 replaces lists whole, so a null inside one is a value like any other.
        Place { path: Path::Item(&self.path, index), patch: false, ..*self }
    }

    /// The same place, in which null members are absent.
    pub fn as_patch(self) -> Self {
        Place { patch: true, ..self }
    }

    /// The same place, of which no value is ever shown.
    pub fn as_secret(self) -> Self {
        Place { secret: true, ..self }
    }

    /// The same place, with another list for its warnings.
    pub fn warning_to(self, warnings: &'a RefCell<Vec<String>>) -> Self {
        Place { warnings, ..self }
    }

    /// Whether what stands here is a patch, which is not a whole before it is merged.
    pub fn is_patch(&self) -> bool {
        self.patch
    }

    /// Notes that a legal value is risky.
    pub fn warn(&self, why: &str) {
        self.warnings.borrow_mut().push(format!("{self}: {why}"));
    }

    /// A complaint about what stands here.
    pub fn error(&self, why: impl fmt::Display) -> ConfigError {
        ConfigError(Box::new(format!("{self}: {why}")))
    }

    /// The complaint that something else should stand here.
    pub fn wrong(&self, wanted: &str, value: &Value) -> ConfigError {
        self.error(format_args!("must be {wanted}, is {}", self.shown(value)))
    }

    /// Reads an object, whose known fields are those that `read` asks for; any other member is refused.
    pub fn object<T>(&self, value: &Value, read: impl FnOnce(&mut Fields<'_>) -> Read<T>) -> Read<T> {
        let mut fields = Fields { at: self, members: self.members(value)?, known: Vec::new() };
        let object = read(&mut fields)?;
        match fields.members.keys().find(|name| !fields.known.contains(&name.as_str())) {
            Some(name) => Err(self.unknown(name, &fields.known)),
            None => Ok(object),
        }
    }

    /// Reads an object that has exactly one member, whose name decides how it is read.
    pub fn one_of<T>(&self, value: &Value, table: &[(&str, Reader<T>)]) -> Read<T> {
        let members = self.members(value)?;
        let known: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        if let Some(name) = members.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(self.unknown(name, &known));
        }
        let mut given = table.iter().filter_map(|(name, read)| Some((name, read, members.get(*name)?)));
        match (given.next(), given.next()) {
            (Some((name, read, value)), None) => read(&self.member(name), value),
            _ => Err(self.error(format_args!("must have exactly one of {}", known.join(", ")))),
        }
    }

    /// The members of an object whose names are not fixed.
    pub fn members<'v>(&self, value: &'v Value) -> Read<&'v Map<String, Value>> {
        value.as_object().ok_or_else(|| self.wrong("an object", value))
    }

    /// Reads a list, which may be empty.
    pub fn list<T>(&self, value: &Value, read: impl Fn(&Place<'_>, &Value) -> Read<T>) -> Read<Vec<T>> {
        let items = value.as_array().ok_or_else(|| self.wrong("a list", value))?;
        items.iter().enumerate().map(|(index, item)| read(&self.item(index), item)).collect()
    }

    /// Reads a list that would mean nothing if it were empty.
    pub fn filled_list<T>(&self, value: &Value, read: impl Fn(&Place<'_>, &Value) -> Read<T>) -> Read<Vec<T>> {
        let items = self.list(value, read)?;
        if items.is_empty() { Err(self.error("must not be empty")) } else { Ok(items) }
    }

    /// Reads a whole number within bounds, all of which are far below 2^53.
    pub fn whole(&self, value: &Value, bounds: RangeInclusive<u64>) -> Read<u64> {
        // A `Struct` knows doubles only, so `1000.0` and `1e3` are whole numbers too.
        let Some(number) = value.as_f64().filter(|number| number.fract() == 0.0) else {
            return Err(self.wrong("a whole number", value));
        };
        let (least, most) = (*bounds.start(), *bounds.end());
        if number < least as f64 {
            Err(self.wrong(&format!("at least {least}"), value))
        } else if number > most as f64 {
            Err(self.wrong(&format!("at most {most}"), value))
        } else {
            Ok(number as u64)
        }
    }

    /// Reads a string of which `fits` holds; `wanted` says what that is.
    pub fn text<'v>(&self, value: &'v Value, wanted: &str, fits: impl Fn(&str) -> bool) -> Read<&'v str> {
        value.as_str().filter(|text| fits(text)).ok_or_else(|| self.wrong(wanted, value))
    }

    /// Reads one of a few words.
    pub fn choice<T: Copy>(&self, value: &Value, words: &[(&str, T)]) -> Read<T> {
        match words.iter().find(|(word, _)| value == word) {
            Some((_, meaning)) => Ok(*meaning),
            None => {
                let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                Err(self.wrong(&words.join(" or "), value))
            }
        }
    }

    /// The complaint about a member whose name is not one of these.
    pub fn unknown(&self, name: &str, known: &[&str]) -> ConfigError {
        self.member(name).error(format_args!("is not a known field; known here: {}", known.join(", ")))
    }

    fn shown(&self, value: &Value) -> String {
        // A document that is one string is often a document encoded twice, with its secrets in it.
        let secret = self.secret || matches!(self.path, Path::Root);
        let kind = match value {
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
            Value::Bool(_) if secret => "a boolean",
            Value::Number(_) if secret => "a number",
            Value::String(_) if secret => "a string",
            Value::String(text) => {
                let shown = match text.char_indices().nth(LONGEST_SHOWN) {
                    Some((end, _)) => Value::from(format!("{}…", text.get(..end).unwrap_or_default())).to_string(),
                    None => value.to_string(),
                };
                // A log is read in a terminal, and JSON leaves some of what drives one as it is.
                return shown.replace(char::is_control, "\u{fffd}");
            }
            _ => return value.to_string(),
        };
        kind.to_owned()
    }
}

/// As a JSON Pointer (RFC 6901); the root, whose pointer is empty, in words.
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path {
            Path::Root => f.write_str("the document"),
            path => path.fmt(f),
        }
    }
}

/// An object while its fields are read.
pub struct Fields<'a> {
    at: &'a Place<'a>,
    members: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Reads a field that may be left out.
    pub fn read<T>(
        &mut self,
        name: &'static str,
        default: T,
        read: impl FnOnce(&Place<'_>, &Value) -> Read<T>,
    ) -> Read<T> {
        match self.given(name) {
            (place, Some(value)) => read(&place, value),
            (_, None) => Ok(default),
        }
    }

    /// Reads a field that is one of a few words.
    pub fn choice<T: Choice>(&mut self, name: &'static str) -> Read<T> {
        self.read(name, T::default(), |at, value| at.choice(value, T::WORDS))
    }

    /// Reads a field that is `true` or `false`.
    pub fn flag(&mut self, name: &'static str, default: bool) -> Read<bool> {
        self.read(name, default, flag)
    }

    /// Reads a field that is a whole number within bounds.
    pub fn whole(&mut self, name: &'static str, default: u64, bounds: RangeInclusive<u64>) -> Read<u64> {
        self.read(name, default, |at, value| at.whole(value, bounds))
    }

    /// Reads a field that must be there.
    pub fn required<T>(&mut self, name: &'static str, read: impl FnOnce(&Place<'_>, &Value) -> Read<T>) -> Read<T> {
        match self.given(name) {
            (place, Some(value)) => read(&place, value),
            (_, None) => Err(self.at.error(format_args!("must have {name}"))),
        }
    }

    /// Reads a field that holds an object with defaults of its own; left out, it counts as an empty one.
    pub fn nested<T>(&mut self, name: &'static str, read: impl FnOnce(&Place<'_>, &Value) -> Read<T>) -> Read<T> {
        match self.given(name) {
            (place, Some(value)) => read(&place, value),
            (place, None) => read(&place, &Value::Object(Map::new())),
        }
    }

    /// Refuses a field that stands here for nothing, with a reason.
    pub fn refuse(&self, name: &'static str, reason: &str) -> Read<()> {
        match self.members.contains_key(name) {
            true => Err(self.at(name).error(reason)),
            false => Ok(()),
        }
    }

    /// The place of a member.
    pub fn at(&self, name: &'static str) -> Place<'a> {
        self.at.member(name)
    }

    fn given(&mut self, name: &'static str) -> (Place<'a>, Option<&'a Value>) {
        self.known.push(name);
        let value = self.members.get(name).filter(|value| !(self.at.patch && value.is_null()));
        (self.at.member(name), value)
    }
}

/// Reads `true` or `false`.
pub fn flag(at: &Place<'_>, value: &Value) -> Read<bool> {
    value.as_bool().ok_or_else(|| at.wrong("true or false", value))
}

/// Reads JSON text, or a Struct as Envoy hands it over, into a value; nothing at all counts as an empty object.
pub fn parse_text(text: &[u8], root: Place<'_>) -> Read<Value> {
    if text.trim_ascii().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    match json::parse(text) {
        Ok(value) => Ok(value),
        // The one error of ours has its pointer already.
        Err(error) if error.is_data() => Err(ConfigError(Box::new(error.to_string()))),
        Err(error) => parse_struct(text).ok_or_else(|| root.error(format_args!("is not JSON: {error}"))),
    }
}

/// Changes the target as a JSON Merge Patch (RFC 7396) says.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            members.remove(name);
        } else {
            merge(members.entry(name.as_str()).or_insert(Value::Null), value);
        }
    }
}

/// Characters of a string that a message repeats.
const LONGEST_SHOWN: usize = 40;

pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const DAY_S: u64 = 24 * 60 * 60;
pub(super) const YEAR_S: u64 = 365 * DAY_S;
pub(super) const DAY_MS: u64 = 24 * 60 * 60 * 1000;
