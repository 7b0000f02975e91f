//! What an end of an execution means for its key, and the status of each answer of the gateway itself.
//!
//! Its one rule: every status and every ending has exactly one fate.
//! It does not know how an execution came to its end.

use std::fmt;

use serde_json::{Map, Value};

use super::text::pointer;
use super::walk::{Fields, Place, Read};
use super::words::{all, list};
use crate::json::Pointer;
use crate::refusal::ProblemType;

/// What becomes of a key when its execution is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The key is free, also for another payload.
    Release,
    /// The same payload may run again at once.
    Retry,
    /// The response is kept and replayed.
    Store,
    /// The service may have executed.
    Unknown,
}

/// An ending that brought no response of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client went away while it ran.
    Disconnect,
    /// The connection to the upstream broke before response headers.
    Reset,
    /// The upstream did not answer in time.
    Timeout,
    /// It provably never reached an upstream.
    Unsent,
}

/// `outcomes`: the fate of a key, by upstream status or event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcomes {
    /// Exact statuses, which beat their class.
    pub exact: Vec<(u16, Fate)>,
    /// Fates of 2xx, 3xx, 4xx and 5xx.
    pub classes: [Fate; 4],
    /// Fates of the endings, never `Store`: see [`Outcomes::of_ending`] for the order.
    pub endings: [Fate; 4],
    /// What the body of a JSON response says, tried in order where the status would have it stored.
    pub json: Vec<JsonOutcome>,
}

/// One entry of `outcomes.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonOutcome {
    /// All must hold; never an empty list.
    pub all: Vec<(Pointer, Presence)>,
    /// The fate of the key then.
    pub fate: Fate,
}

/// What stands at a place of a JSON body. Of the three one holds: of each element of a list, the last here that one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// No such member.
    Absent,
    /// `null`.
    Null,
    /// Anything else.
    Present,
}

impl JsonOutcome {
    fn holds(&self, body: &Value) -> bool {
        let presence = |found: Option<&Value>| match found {
            None => Presence::Absent,
            Some(Value::Null) => Presence::Null,
            Some(_) => Presence::Present,
        };
        self.all.iter().all(|(place, wanted)| {
            *wanted == place.find(body).values.into_iter().map(presence).max().unwrap_or(Presence::Absent)
        })
    }
}

impl Outcomes {
    /// The fate of a key whose execution brought this status from the upstream.
    pub fn of_status(&self, status: u16) -> Fate {
        if let Some((_, fate)) = self.exact.iter().find(|(exact, _)| *exact == status) {
            return *fate;
        }
        match (status / 100, self.classes) {
            (2, [fate, ..]) | (3, [_, fate, ..]) | (4, [_, _, fate, _]) | (5, [.., fate]) => fate,
            _ => Fate::Unknown,
        }
    }

    /// The fate of a key by what a response says, where that decides.
    pub fn of_body(&self, body: &Value) -> Option<Fate> {
        self.json.iter().find(|entry| entry.holds(body)).map(|entry| entry.fate)
    }

    /// The fate of a key whose execution ended so.
    pub fn of_ending(&self, ending: Ending) -> Fate {
        let [disconnect, reset, timeout, unsent] = self.endings;
        match ending {
            Ending::Disconnect => disconnect,
            Ending::Reset => reset,
            Ending::Timeout => timeout,
            Ending::Unsent => unsent,
        }
    }
}

impl Default for Outcomes {
    fn default() -> Self {
        Outcomes {
            exact: vec![(502, Fate::Unknown), (504, Fate::Unknown)],
            classes: [Fate::Store, Fate::Store, Fate::Release, Fate::Retry],
            endings: [Fate::Unknown, Fate::Unknown, Fate::Unknown, Fate::Release],
            json: Vec::new(),
        }
    }
}

/// Each fate with what leads to it.
impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut exact = self.exact.clone();
        exact.sort_by_key(|(status, _)| *status);
        let [disconnect, reset, timeout, unsent] = self.endings;
        let endings = [("time-out", timeout), ("reset", reset), ("client gone", disconnect), ("never sent", unsent)];
        let causes: Vec<(String, Fate)> = CLASSES
            .into_iter()
            .zip(self.classes)
            .map(|(class, fate)| (class.to_owned(), fate))
            .chain(exact.into_iter().map(|(status, fate)| (status.to_string(), fate)))
            .chain(endings.map(|(name, fate)| (name.to_owned(), fate)))
            .collect();
        let by_cause = FATES.into_iter().filter_map(|(_, fate)| {
            let names: Vec<_> = causes.iter().filter(|(_, it)| *it == fate).map(|(name, _)| name).collect();
            (!names.is_empty()).then(|| format!("{}: {fate}", list(&names)))
        });
        let by_body = self.json.iter().map(JsonOutcome::to_string);
        f.write_str(&by_cause.chain(by_body).collect::<Vec<_>>().join("; "))
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fate::Store => "kept and replayed",
            Fate::Release => "the key is free again",
            Fate::Retry => "the same request may run again at once",
            Fate::Unknown => "may have run, so unknown",
        })
    }
}

impl fmt::Display for JsonOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is = |(place, presence): &(Pointer, Presence)| match presence {
            Presence::Absent => format!("{place} is absent"),
            Presence::Null => format!("{place} is null"),
            Presence::Present => format!("{place} is present"),
        };
        let places: Vec<_> = self.all.iter().map(is).collect();
        write!(f, "stored by its status, and in its JSON {}: {}", all(&places), self.fate)
    }
}

/// `statuses`: the status of each answer of the gateway itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses {
    /// In the order of [`ProblemType::ALL`].
    by_problem: [u16; ProblemType::ALL.len()],
}

impl Statuses {
    /// The preset that existing APIs use.
    pub fn classic() -> Self {
        Statuses { by_problem: ProblemType::ALL.map(|problem| problem.row().classic) }
    }

    /// The preset of draft-ietf-httpapi-idempotency-key-header-07, section 2.7.
    pub fn ietf() -> Self {
        Statuses { by_problem: ProblemType::ALL.map(|problem| problem.row().ietf) }
    }

    /// The status of this answer.
    pub fn of(&self, problem: ProblemType) -> u16 {
        self.by_problem.get(problem as usize).copied().unwrap_or_else(|| problem.row().classic)
    }

    /// An answer with its status.
    pub fn shown(&self, problem: ProblemType) -> String {
        format!("{} {}", self.of(problem), problem.as_str())
    }

    /// Another status for one answer.
    pub fn set(&mut self, problem: ProblemType, status: u16) {
        if let Some(place) = self.by_problem.get_mut(problem as usize) {
            *place = status;
        }
    }
}

pub(super) fn outcomes(at: &Place<'_>, value: &Value) -> Read<Outcomes> {
    let mut outcomes = Outcomes::default();
    let [_, not_kept @ ..] = &FATES;
    for (name, value) in at.members(value)? {
        let place = at.member(name);
        if name == "json" {
            let is_taken_away = at.is_patch() && value.is_null();
            outcomes.json = if is_taken_away { Vec::new() } else { place.list(value, json_outcome)? };
            continue;
        }
        let class = CLASSES.iter().position(|class| class == name);
        let ending = ENDINGS.iter().position(|ending| ending == name);
        let status = name.parse().ok().filter(|status| (200..=599).contains(status) && name.len() == 3);
        // A name is checked also where a patch takes it away.
        if class.is_none() && ending.is_none() && status.is_none() {
            let known = [&CLASSES[..], &["200 to 599"], &ENDINGS[..], &["json"]].concat();
            return Err(at.unknown(name, &known));
        }
        if at.is_patch() && value.is_null() {
            continue;
        }
        let words: &[_] = if ending.is_some() { not_kept } else { &FATES };
        let fate = place.choice(value, words)?;
        warn_of_fate(&place, class.map(|class| 200 + 100 * class as u16).or(status), name, fate);
        if let Some(known) = class.and_then(|class| outcomes.classes.get_mut(class)) {
            *known = fate;
        }
        if let Some(known) = ending.and_then(|ending| outcomes.endings.get_mut(ending)) {
            *known = fate;
        }
        if let Some(status) = status {
            outcomes.exact.retain(|(known, _)| *known != status);
            outcomes.exact.push((status, fate));
        }
    }
    Ok(outcomes)
}

/// Reads `{"pointer", "is", "fate"}` or `{"all": [{"pointer", "is"}, …], "fate"}`.
fn json_outcome(at: &Place<'_>, value: &Value) -> Read<JsonOutcome> {
    at.object(value, |fields| {
        let all = match value.get("all") {
            Some(_) => {
                fields.required("all", |at, value| at.filled_list(value, |at, value| at.object(value, condition)))?
            }
            None => vec![condition(fields)?],
        };
        Ok(JsonOutcome { all, fate: fields.required("fate", |at, value| at.choice(value, &FATES))? })
    })
}

fn condition(fields: &mut Fields<'_>) -> Read<(Pointer, Presence)> {
    let words = [("present", Presence::Present), ("absent", Presence::Absent), ("null", Presence::Null)];
    Ok((fields.required("pointer", pointer)?, fields.required("is", |at, value| at.choice(value, &words))?))
}

/// The status is the first of its class; an ending has none.
fn warn_of_fate(at: &Place<'_>, status: Option<u16>, name: &str, fate: Fate) {
    match (status, fate) {
        (Some(400..), Fate::Store) => at.warn("keeps a failure, which every retry gets back until the record expires"),
        (Some(500..), Fate::Release) => at.warn("frees the key, for another payload too, though it may have executed"),
        (None, Fate::Release | Fate::Retry) if name != "unsent" => {
            at.warn("lets a retry run at once, though it may have executed");
        }
        _ => {}
    }
}

pub(super) fn statuses(at: &Place<'_>, value: &Value) -> Read<Statuses> {
    let preset = |at: &Place<'_>, value: &Value| at.choice(value, &[("classic", false), ("ietf", true)]);
    let empty = Value::Object(Map::new());
    let (ietf, members) = match value {
        Value::Object(_) => (false, value),
        Value::String(_) => (preset(at, value)?, &empty),
        _ => return Err(at.wrong("\"classic\" or \"ietf\" or an object", value)),
    };
    at.object(members, |fields| {
        let mut statuses = match fields.read("base", ietf, preset)? {
            true => Statuses::ietf(),
            false => Statuses::classic(),
        };
        for slug in ProblemType::ALL {
            let status =
                fields.read(slug.as_str(), u64::from(statuses.of(slug)), |at, value| at.whole(value, 400..=599))?;
            statuses.set(slug, status as u16);
        }
        Ok(statuses)
    })
}

const FATES: [(&str, Fate); 4] =
    [("store", Fate::Store), ("release", Fate::Release), ("retry", Fate::Retry), ("unknown", Fate::Unknown)];

/// In the order of [`Outcomes::classes`].
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// In the order of [`Outcomes::endings`].
const ENDINGS: [&str; 4] = ["disconnect", "reset", "timeout", "unsent"];
