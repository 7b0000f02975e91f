//! The machine, fed whatever can be fed in any order.
//!
//! Its one rule: no order of events, and no words of client, upstream, store or host, take it where it was not sent.

use std::rc::Rc;

use envoy_idempotency::command::{Failure, RedisError, ReplyKind, StoreReply};
use envoy_idempotency::config::{Config, Mode, Policy};
use envoy_idempotency::count::Count;
use envoy_idempotency::event::{Clock, Event, EventKind, Executed};
use envoy_idempotency::evidence::Origin;
use envoy_idempotency::exchange::{Exchange, Secrets};
use envoy_idempotency::key::{KeyForm, Name, UpstreamKey};
use envoy_idempotency::message::{HeaderMutation, Headers, RequestHead};
use envoy_idempotency::record::Owner;
use envoy_idempotency::reply::STATUS;
use envoy_idempotency::step::{Flow, Step};

use crate::choices::Choices;

/// Takes a policy, and events for one exchange.
pub fn hold(data: &[u8]) {
    let mut choices = Choices::new(data);
    let config = Config::parse(choices.one(&DOCUMENTS).as_bytes(), &|_| None).expect("the document is right");
    let policy = Rc::clone(&config.rules[0].policy);
    let mut subject = Subject {
        exchange: Exchange::new(Rc::clone(&policy), Rc::new(Secrets::new(&config, b""))),
        policy,
        executed: 0,
        counted: 0,
        now_ms: 0,
    };
    while !choices.is_over() {
        subject.meet(&mut choices);
    }
    subject.comes_to_its_end();
}

struct Subject {
    exchange: Exchange,
    policy: Rc<Policy>,
    /// How often it was let through under a claim.
    executed: u32,
    /// How often it was counted as an execution.
    counted: u32,
    now_ms: u64,
}

impl Subject {
    fn meet(&mut self, choices: &mut Choices<'_>) {
        let now_ms = self.now_ms.saturating_add(choices.number() >> 24);
        self.now_ms = now_ms;
        let owner = Owner([choices.byte(); 16]);
        match choices.byte() % 9 {
            0 => {
                let head = RequestHead { headers: request_fields(choices) };
                let (certificate, end) = (choices.flag(), choices.flag());
                let upstream_key = UpstreamKey([choices.byte(); 16]);
                let attribute = &|_: &[&str]| certificate.then(|| vec![1]);
                self.feed(Event {
                    clock: &Clock::at(now_ms),
                    kind: EventKind::RequestHeaders { head: &head, attribute, owner, upstream_key, end },
                });
            }
            1 => {
                let (overloaded, end, trailers) = (choices.flag(), choices.flag(), choices.flag());
                let many = vec![b'b'; (choices.number() % (1 << 20)) as usize];
                let chunk = if choices.flag() { choices.bytes(64) } else { &many };
                self.feed(Event {
                    clock: &Clock::at(now_ms),
                    kind: EventKind::RequestBody { attribute: &|_| None, chunk, overloaded, end, trailers },
                });
            }
            2 => {
                let (overloaded, end, buffered_bytes) = (choices.flag(), choices.flag(), choices.number() % (1 << 20));
                self.feed(Event {
                    clock: &Clock::at(now_ms),
                    kind: EventKind::ResponseBody {
                        buffered_bytes,
                        whole: &|| vec![b'b'; buffered_bytes as usize],
                        overloaded,
                        end,
                    },
                });
            }
            3 => {
                let (headers, origin, end) = (response_fields(choices), origin(choices), choices.flag());
                let status = choices.number() as u16;
                self.feed(Event {
                    clock: &Clock::at(now_ms),
                    kind: EventKind::ResponseHeaders { headers: &headers, status, origin, end },
                });
            }
            4 => {
                let (headers, status) = (response_fields(choices), choices.number() as u16);
                let answer = match choices.byte() % 4 {
                    0 => Executed::Unsent,
                    1 => Executed::Lost,
                    _ => Executed::Answered { status, headers: &headers, body: choices.bytes(64) },
                };
                self.feed(Event { clock: &Clock::at(now_ms), kind: EventKind::Executed { answer, overloaded: false } });
            }
            5 => {
                let (asked, may_wait) = (choices.one(&ASKED), choices.flag());
                let reply = reply(choices);
                self.feed(Event {
                    clock: &Clock::at(now_ms),
                    kind: EventKind::StoreReplied { asked, reply, may_wait },
                });
            }
            6 => self.feed(Event { clock: &Clock::at(now_ms), kind: EventKind::Tick { owner } }),
            7 => {
                let kind = EventKind::Closed { origin: origin(choices), status: status(choices) };
                self.feed(Event { clock: &Clock::at(now_ms), kind });
            }
            _ => self.feed(Event { clock: &Clock::at(now_ms), kind: EventKind::BodyUnavailable }),
        }
    }

    /// Feeds one event, and holds the step to what is promised of every step.
    fn feed(&mut self, event: Event<'_>) {
        let before = self.exchange.awaits();
        let may_grant = matches!(
            event,
            Event {
                kind: EventKind::StoreReplied { reply: StoreReply::Granted { .. } | StoreReply::Renewed { .. }, .. },
                ..
            }
        );
        let step = self.exchange.handle(event);
        let after = self.exchange.awaits();
        let nothing = Step { observed: self.policy.mode == Mode::Observe, ..Step::default() };
        assert!(before != "done" || (step == nothing && after == "done"), "{step:?} after the end");
        assert!(step.commands.len() <= 1, "{step:?}");
        assert!(step.commands.is_empty() || step.commands.iter().all(|call| call.lease_ms == self.policy.lease_ms));
        let is_numbered = |edit: &HeaderMutation| matches!(edit, HeaderMutation::Set("idempotency-attempt", _));
        let executes =
            step.execute.is_some() || matches!(&step.flow, Flow::Resume(edits) if edits.iter().any(is_numbered));
        self.counted += u32::from(step.counts.contains(&Count::Executed));
        assert!(self.counted <= 1 && (self.only_looks() || self.counted <= self.executed), "{step:?}");
        // A request that asks for what is similar has been granted its claim.
        assert!(may_grant || before == "similar" || !executes, "{before} executes without a grant: {step:?}");
        self.executed += u32::from(executes);
        assert!(self.executed <= 1, "it executes twice");
        assert!(!executes || self.exchange.is_running(), "it executes, and {after} is awaited");
        let bound = self.policy.max_request_bytes.max(self.policy.max_response_bytes);
        assert!(!self.exchange.awaits_body() || self.exchange.held_bytes() <= bound, "it holds more than it may");
        assert!(self.exchange.runs().is_none() || self.exchange.waits_for().is_none());
        match &step.flow {
            Flow::LocalReply(reply) => {
                assert!(!self.only_looks(), "an answer in {:?}", self.policy.mode);
                assert!(reply.details.starts_with("idempotency_"), "{reply:?}");
                assert!(reply.headers.all(STATUS).count() <= 1, "{reply:?}");
            }
            Flow::Hold => assert!(!self.only_looks(), "held in {:?}", self.policy.mode),
            Flow::Replace(_) | Flow::Restore(_) | Flow::Resume(_) | Flow::Pass => {}
        }
    }

    /// Whether it changes nothing of what passes.
    fn only_looks(&self) -> bool {
        matches!(self.policy.mode, Mode::Observe | Mode::Off)
    }

    /// Its stream ends, and everything it may have asked fails: then nothing of it is left.
    fn comes_to_its_end(&mut self) {
        let origin = Origin { details: b"downstream_remote_disconnect", attempts: Some(1), ..Origin::default() };
        for _ in 0..4 {
            let now_ms = self.now_ms;
            self.feed(Event { clock: &Clock::at(now_ms), kind: EventKind::Closed { origin, status: None } });
            self.feed(Event {
                clock: &Clock::at(now_ms),
                kind: EventKind::Executed { answer: Executed::Lost, overloaded: false },
            });
            for asked in ASKED {
                let reply = StoreReply::Failed(Failure::Transport);
                self.feed(Event {
                    clock: &Clock::at(now_ms),
                    kind: EventKind::StoreReplied { asked, reply, may_wait: false },
                });
            }
        }
        assert!(self.exchange.is_done(), "{} is awaited after the end", self.exchange.awaits());
        assert!(!self.exchange.is_running() && self.exchange.waits_for().is_none());
    }
}

fn request_fields(choices: &mut Choices<'_>) -> Headers {
    let given = [(":path", "/v1/payments?q=1"), (":authority", "api"), ("authorization", "Bearer t")];
    let mut headers: Headers = given.into_iter().collect();
    headers.push(b":method", choices.one(&["POST", "PATCH", "GET", "CONNECT", ""]).as_bytes());
    while choices.flag() {
        let (name, value) = choices.one(&REQUEST_FIELDS);
        let any = choices.bytes(32);
        headers.push(name.as_bytes(), if value.is_empty() { any } else { value.as_bytes() });
    }
    headers
}

fn response_fields(choices: &mut Choices<'_>) -> Headers {
    let mut headers = Headers::default();
    while choices.flag() {
        let (name, value) = choices.one(&RESPONSE_FIELDS);
        let any = choices.bytes(32);
        headers.push(name.as_bytes(), if value.is_empty() { any } else { value.as_bytes() });
    }
    headers
}

fn origin<'a>(choices: &mut Choices<'a>) -> Origin<'a> {
    let known = choices.one(&ORIGINS).as_bytes();
    let attempts = choices.flag().then(|| choices.number());
    let details = if known.is_empty() { choices.bytes(32) } else { known };
    let owner = choices.flag().then(|| choices.one(&["lua", "envoy.filters.http.router"]).as_bytes());
    let sent = choices.flag().then(|| choices.number());
    Origin { details, attempts, flags: choices.number(), sent, owner }
}

fn status(choices: &mut Choices<'_>) -> Option<u16> {
    choices.flag().then(|| choices.number() as u16)
}

fn reply(choices: &mut Choices<'_>) -> StoreReply {
    let (attempt, number) = (choices.number() as u32, choices.number());
    match choices.byte() % 15 {
        0 => StoreReply::Granted {
            attempt,
            doubt: choices.flag(),
            key: if choices.flag() { KeyForm::Ours(UpstreamKey([9; 16])) } else { KeyForm::Quoted },
            expires_ms: number,
        },
        1 => StoreReply::Completed {
            attempt,
            status: Some(choices.number() as u16),
            response: choices.flag().then(|| choices.bytes(64).to_vec()),
            age_ms: number,
            ttl_ms: choices.number(),
        },
        2 => StoreReply::InFlight { attempt },
        3 => StoreReply::Unknown { attempt, wait_ms: number },
        4 => StoreReply::Mismatch,
        5 => StoreReply::Stale,
        6 => StoreReply::Exhausted { attempt },
        7 => StoreReply::Lost,
        8 => StoreReply::Settled,
        9 => StoreReply::Dropped,
        10 => StoreReply::Deferred,
        11 => StoreReply::Renewed { expires_ms: number },
        13 => StoreReply::Seen(None),
        14 => StoreReply::Similar { operation: Name([9; 32]), since_ms: 77, age_ms: number },
        _ => StoreReply::Failed(choices.one(&[
            Failure::Timeout,
            Failure::Transport,
            Failure::Garbage,
            Failure::Nonce,
            Failure::Queue,
            Failure::Breaker,
            Failure::Full,
            Failure::Corrupt,
            Failure::Redis(RedisError::Err),
            Failure::Redis(RedisError::Oom),
        ])),
    }
}

const ASKED: [ReplyKind; 6] =
    [ReplyKind::Claim, ReplyKind::Renew, ReplyKind::Mark, ReplyKind::Settle, ReplyKind::Inspect, ReplyKind::Similar];

/// Where no value stands, the fuzzer writes one.
const REQUEST_FIELDS: [(&str, &str); 12] = [
    ("idempotency-key", "k"),
    ("idempotency-key", ""),
    ("content-length", "5"),
    ("content-length", "18446744073709551616"),
    ("content-type", "application/json"),
    ("content-type", "application/grpc"),
    ("authorization", ""),
    ("cookie", "a=b"),
    ("upgrade", "websocket"),
    ("connection", "upgrade"),
    ("idempotency-attempt", "7"),
    ("x-any", ""),
];
const RESPONSE_FIELDS: [(&str, &str); 17] = [
    ("content-length", "5"),
    ("content-length", ""),
    ("content-type", "text/event-stream"),
    ("idempotency-store", "store"),
    ("idempotency-store", "retry"),
    ("idempotency-store", "unknown"),
    ("idempotency-ttl", ""),
    ("idempotency-ttl", "4294967295"),
    ("idempotency-status", "replayed"),
    ("x-idempotency-details", "via_upstream"),
    ("x-idempotency-details", ""),
    ("x-idempotency-attempts", "0"),
    ("x-idempotency-attempts", "2"),
    ("x-idempotency-flags", "UF"),
    ("x-idempotency-owner", "-"),
    ("x-idempotency-sent", "0"),
    ("location", ""),
];
const ORIGINS: [&str; 10] = [
    "via_upstream",
    "lua_response",
    "direct_response",
    "response_timeout",
    "no_healthy_upstream",
    "downstream_remote_disconnect",
    "internal_redirect",
    "request_payload_too_large",
    "idempotency_mismatch",
    "",
];

/// What operators may want of it.
const DOCUMENTS: [&str; 14] = [
    "{}",
    r#"{"policy": {"on_store_failure": "forward", "on_too_large": "bypass", "max_request_bytes": 64, "max_response_bytes": 64}}"#,
    r#"{"policy": {"on_in_flight": {"action": "wait", "max_wait_ms": 500}, "lease_ms": 1000, "max_running_ms": 3000}}"#,
    r#"{"policy": {"execution": {"kind": "shielded", "cluster": "c"}, "on_unknown": "hold"}}"#,
    r#"{"policy": {"execution": {"kind": "shielded", "cluster": "c"}, "save": "after_reply", "on_completed": "conflict"}}"#,
    r#"{"policy": {"mode": "observe", "on_in_flight": {"action": "wait"}}}"#,
    r#"{"policy": {"key": {"required": true}, "scope": {"anonymous": "refuse"}, "statuses": "ietf", "expose_cors": true}}"#,
    r#"{"policy": {"outcomes": {"5xx": "unknown", "4xx": "store", "unsent": "retry"}, "ttl_s": 2, "lease_ms": 1000}}"#,
    r#"{"policy": {"key": {"inject": {"kind": "uuid"}}, "scope": {"caller": [{"jwt_claim": "sub"}]}}}"#,
    r#"{"policy": {"key": {"inject": {"kind": "content", "anonymous": true}}, "scope": {"anonymous": "share"}, "on_mismatch": "separate"}}"#,
    r#"{"policy": {"similar": {}}}"#,
    r#"{"policy": {"similar": {"action": "refuse"}, "execution": {"kind": "shielded", "cluster": "c"}}}"#,
    r#"{"policy": {"mode": "inject", "key": {"inject": {"kind": "uuid"}}}}"#,
    r#"{"policy": {"key": {"sources": [{"any": [{"json": "/k"}, {"form": "k"}]}]}, "fingerprint": {"body": "json"}}}"#,
];
