//! Who answered a request, and whether it may have run: what Envoy's account of a response or of an ending proves.
//!
//! Its one rule: "not sent" wants Envoy's own word, by details and by flag; what is absent proves nothing.
//! It does not know what an ending means for the key.
//!
//! `tests/e2e/evidence.rs` provokes every word on real Envoy and writes the table in `docs/guarantees.md`.

use crate::config::Ending;
use crate::reply::DETAILS;

/// The details of a response that an upstream made.
pub const VIA_UPSTREAM: &[u8] = b"via_upstream";

/// The host's account of a response or of an ending.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin<'a> {
    /// Envoy's response code details.
    pub details: &'a [u8],
    /// How many times the router tried an upstream; none where the host says nothing.
    pub attempts: Option<u64>,
    /// Envoy's response flags, a bit each.
    pub flags: u64,
    /// How many bytes went upstream; none where the host does not count them.
    pub sent: Option<u64>,
    /// The filter that answered in the upstream's place, by its name in the chain.
    pub owner: Option<&'a [u8]>,
}

/// Who made a response, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The upstream.
    Upstream,
    /// This filter.
    Own,
    /// The route itself, before any attempt.
    Route,
    /// Another filter, in the upstream's place.
    Local {
        /// Whether an upstream may have been asked before.
        attempted: bool,
    },
    /// Envoy, because of this.
    Host(Ending),
    /// Envoy, for a reason that proves nothing.
    Unclear,
}

/// What one of Envoy's own words says.
#[derive(Clone, Copy)]
enum Word {
    /// Nothing was sent. The flag that goes with it.
    Unsent(u64),
    /// The upstream has refused the HTTP/2 stream: "the request can be safely retried" (RFC 9113, section 8.7).
    Refused(u64),
    /// The answer stands in the route.
    Route,
    /// It was sent, or may have been.
    Ended(Ending),
}

/// Envoy's flags by the names that its logs have; each is a bit of `response.flags`.
const FLAGS: [(&str, u64); 8] =
    [("DO", DO), ("NC", NC), ("NR", NR), ("UDO", UDO), ("UF", UF), ("UH", UH), ("UO", UO), ("UR", UR)];
const UH: u64 = 1 << 1;
const UR: u64 = 1 << 4;
const UF: u64 = 1 << 5;
const UO: u64 = 1 << 7;
const NR: u64 = 1 << 8;
const NC: u64 = 1 << 24;
const DO: u64 = 1 << 27;
const UDO: u64 = 1 << 29;

/// How the details of Envoy's router and connection manager begin; the first that is borne out counts.
const WORDS: [(&str, Word); 22] = [
    ("cluster_not_found", Word::Unsent(NC)),
    ("drop_overload", Word::Unsent(DO)),
    ("maintenance_mode", Word::Unsent(UO)),
    ("no_healthy_upstream", Word::Unsent(UH)),
    ("route_not_found", Word::Unsent(NR)),
    ("unconditional_drop_overload", Word::Unsent(UDO)),
    ("upstream_reset_before_response_started{connection_timeout", Word::Unsent(UF)),
    ("upstream_reset_before_response_started{local_connection_failure", Word::Unsent(UF)),
    ("upstream_reset_before_response_started{overflow", Word::Unsent(UO)),
    ("upstream_reset_before_response_started{remote_connection_failure", Word::Unsent(UF)),
    ("upstream_reset_before_response_started{remote_refused_stream_reset", Word::Refused(UR)),
    ("upstream_reset_", Word::Ended(Ending::Reset)),
    ("direct_response", Word::Route),
    ("downstream_", Word::Ended(Ending::Disconnect)),
    ("http2.remote_re", Word::Ended(Ending::Disconnect)),
    ("http3.remote_re", Word::Ended(Ending::Disconnect)),
    ("max_duration_timeout", Word::Ended(Ending::Timeout)),
    ("response_timeout", Word::Ended(Ending::Timeout)),
    ("stream_idle_timeout", Word::Ended(Ending::Timeout)),
    ("upstream_max_stream_duration_reached", Word::Ended(Ending::Timeout)),
    ("upstream_per_try_idle_timeout", Word::Ended(Ending::Timeout)),
    ("upstream_per_try_timeout", Word::Ended(Ending::Timeout)),
];

/// The router's usual name in a chain.
const ROUTER: &[u8] = b"envoy.filters.http.router";

/// Flags as Envoy's logs write them (`UF,URX`), as far as they matter here.
pub fn flags(text: &[u8]) -> u64 {
    let known = |name: &[u8]| FLAGS.iter().find(|(flag, _)| flag.as_bytes() == name).map_or(0, |(_, bit)| *bit);
    text.split(|byte| *byte == b',').map(known).fold(0, |all, bit| all | bit)
}

impl Origin<'_> {
    /// Who made the response, or why there is none.
    pub fn source(&self) -> Source {
        if self.details == VIA_UPSTREAM {
            return Source::Upstream;
        }
        if self.details.starts_with(DETAILS.as_bytes()) {
            return Source::Own;
        }
        let local = Source::Local { attempted: self.attempts != Some(0) };
        let said = WORDS.iter().filter(|(begin, _)| self.details.starts_with(begin.as_bytes()));
        match said.map(|(_, word)| *word).find(|word| self.bears_out(*word)) {
            Some(Word::Unsent(_) | Word::Refused(_)) => Source::Host(Ending::Unsent),
            Some(Word::Ended(ending)) => Source::Host(ending),
            Some(Word::Route) if self.attempts == Some(0) => Source::Route,
            Some(Word::Route) => local,
            None if self.owner.is_some_and(|owner| owner != ROUTER) => local,
            None => Source::Unclear,
        }
    }

    /// Whether the rest of the account agrees. An earlier try may have been delivered, whatever became of the last one.
    fn bears_out(&self, word: Word) -> bool {
        let is_first_try = self.attempts.is_some_and(|attempts| attempts <= 1);
        match word {
            Word::Unsent(flag) => self.flags & flag != 0 && is_first_try && self.sent.is_none_or(|sent| sent == 0),
            Word::Refused(flag) => self.flags & flag != 0 && is_first_try,
            Word::Route | Word::Ended(_) => true,
        }
    }

    /// Whether the router may have executed more than once, or less than it seems.
    pub fn retried(&self) -> bool {
        self.attempts.unwrap_or(0) > 1
    }

    /// Envoy's own refusal of a body over its buffer limit.
    pub fn is_request_too_large(&self) -> bool {
        self.details == b"request_payload_too_large"
    }
}
