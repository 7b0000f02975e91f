//! What an end of an execution means for its key, and the status of each answer of the gateway itself.
//!
//! Its one rule: every status and every ending has exactly one fate.
//! It does not know how an execution came to its end.

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
    /// Somebody may have executed.
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
        }
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

    /// Another status for one answer.
    pub fn set(&mut self, problem: ProblemType, status: u16) {
        if let Some(place) = self.by_problem.get_mut(problem as usize) {
            *place = status;
        }
    }
}
