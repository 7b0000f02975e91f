//! The machine against the list of transitions in its own documentation: every state meets every kind of event.
//!
//! Its one rule: the list is read from the source, so that neither can change without the other.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use envoy_idempotency::command::{CommandKind, Failure, ReplyKind, StoreReply};
use envoy_idempotency::config::Config;
use envoy_idempotency::event::{Clock, Event, EventKind, Executed};
use envoy_idempotency::evidence::{Origin, flags};
use envoy_idempotency::exchange::Exchange;
use envoy_idempotency::key::{KeyForm, Name, UpstreamKey};
use envoy_idempotency::message::{Headers, RequestHead};
use envoy_idempotency::operator::{Asked, Deed, Operation};
use envoy_idempotency::record::{Owner, RecordStatus, RecordSummary, Response};
use envoy_idempotency::reply::Reply;
use envoy_idempotency::seal::ResponseCipher;
use envoy_idempotency::step::{Flow, Step};

const SOURCE: &str = include_str!("../../src/exchange/mod.rs");

#[test]
fn every_state_meets_every_event_as_the_list_says() {
    let mut wrong = Vec::new();
    for (state, cells) in table() {
        for (event, promised) in cells {
            let reached = reached(&state, &event);
            if reached != promised {
                wrong.push(format!("{state} × {event}: the list says {promised:?}, the machine goes to {reached:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_list_has_every_state_and_no_other_event() {
    let listed = transitions();
    assert_eq!(listed.iter().map(|(state, _)| state.as_str()).collect::<Vec<_>>(), STATES);
    for (state, items) in listed {
        let unknown: Vec<_> = items.keys().filter(|event| !EVENTS.contains(&event.as_str())).collect();
        assert!(unknown.is_empty(), "{state}: {unknown:?}");
    }
}

#[test]
fn what_is_held_is_let_go_or_answered_by_the_last_word_of_the_store() {
    for reply in claim_verdicts() {
        let mut exchange = in_state("claim", REPLAY);
        let step = exchange.handle(Event {
            clock: &Clock::at(5),
            kind: EventKind::StoreReplied { asked: ReplyKind::Claim, reply: reply.clone(), may_wait: false },
        });
        assert!(matches!(step.flow, Flow::Resume(_) | Flow::LocalReply(_)), "{reply:?} leaves the request held");
    }
    for reply in settle_verdicts() {
        let mut exchange = in_state("save", REPLAY);
        let step = exchange.handle(Event {
            clock: &Clock::at(5),
            kind: EventKind::StoreReplied { asked: ReplyKind::Settle, reply: reply.clone(), may_wait: false },
        });
        assert!(matches!(step.flow, Flow::Resume(_)), "{reply:?} leaves the response held");
        assert!(exchange.is_done());
    }
}

#[test]
fn a_stream_that_closes_under_a_claim_always_tells_the_store() {
    for state in ["claim", "renewal", "response", "response-body"] {
        for origin in origins() {
            let kind = EventKind::Closed { origin, status: Some(201) };
            let step = in_state(state, REPLAY).handle(Event { clock: &Clock::at(9), kind });
            assert_eq!(step.commands.len(), 1, "{state} closed with {origin:?}");
            assert!(matches!(step.commands[0].kind.reply_kind(), ReplyKind::Mark | ReplyKind::Settle));
        }
    }
}

#[test]
fn a_trial_never_holds_answers_or_edits_a_request() {
    for state in STATES {
        for kind in EVENTS {
            each_meeting(state, kind, OBSERVE, |exchange, event| {
                let is_head = matches!(event, Event { kind: EventKind::ResponseHeaders { .. }, .. });
                match exchange.handle(event).flow {
                    Flow::Pass => {}
                    Flow::Resume(edits) if is_head => assert_eq!(edits.len(), 1, "{state} × {kind}"),
                    other => panic!("{state} × {kind}: {other:?} in a trial"),
                }
            });
        }
    }
}

#[test]
fn the_lease_is_renewed_in_thirds_until_the_execution_ran_too_long() {
    let mut exchange = in_state("response", r#"{"policy": {"lease_ms": 3000, "max_running_ms": 6000}}"#);
    let mut renewals = Vec::new();
    for now_ms in (0..20_000).step_by(100) {
        let step =
            exchange.handle(Event { clock: &Clock::at(now_ms), kind: EventKind::Tick { owner: Owner([3; 16]) } });
        for call in step.commands {
            renewals.push((now_ms, call.kind));
        }
    }
    let mut expected: Vec<_> = (1..6).map(|third| (third * 1000, CommandKind::Renew)).collect();
    expected.push((6000, CommandKind::MarkUnknown));
    assert_eq!(renewals, expected);
}

const REPLAY: &str = "{}";
const OBSERVE: &str = r#"{"policy": {"mode": "observe"}}"#;
const STATES: [&str; 16] = [
    "head",
    "look-up",
    "operator",
    "body",
    "claim",
    "waiting",
    "similar",
    "renewal",
    "lock",
    "response",
    "shielded",
    "response-body",
    "save",
    "unprotected",
    "answered",
    "done",
];
const EVENTS: [&str; 19] = [
    "request head",
    "request body",
    "claim reply",
    "found",
    "lock reply",
    "look reply",
    "mark reply",
    "renew reply",
    "renew-lock reply",
    "resolve reply",
    "settle reply",
    "similar reply",
    "unlock reply",
    "response head",
    "response body",
    "tick",
    "closed",
    "unable",
    "executed",
];
/// Under these a cell may have more than one end.
const POLICIES: [&str; 17] = [
    REPLAY,
    r#"{"policy": {"on_store_failure": "forward", "on_too_large": "bypass", "max_request_bytes": 4, "max_response_bytes": 4}}"#,
    r#"{"policy": {"max_request_bytes": 4, "key": {"required": true}}}"#,
    r#"{"policy": {"mode": "off"}}"#,
    r#"{"policy": {"on_in_flight": {"action": "wait"}}}"#,
    r#"{"policy": {"execution": {"kind": "shielded", "cluster": "c"}}}"#,
    r#"{"policy": {"execution": {"kind": "shielded", "cluster": "c"}, "save": "after_reply", "max_response_bytes": 4}}"#,
    r#"{"policy": {"key": {"sources": [{"json": "/k"}]}}}"#,
    r#"{"policy": {"key": {"sources": [{"any": [{"header": "idempotency-key"}, {"form": "k"}]}], "inject": {"kind": "uuid"}}}}"#,
    r#"{"policy": {"mode": "inject", "key": {"inject": {"kind": "uuid"}}}}"#,
    r#"{"policy": {"on_completed": "conflict", "lease_ms": 1000, "max_running_ms": 1000}}"#,
    r#"{"policy": {"key": {"required": true}, "lease_ms": 1000, "serialize": {"sources": [{"path_segment": 0}]}, "on_store_failure": "forward"}}"#,
    r#"{"policy": {"key": {"required": true}, "lease_ms": 1000, "serialize": {"sources": [{"path_segment": 0}]}, "execution": {"kind": "shielded", "cluster": "c"}}}"#,
    r#"{"policy": {"similar": {}, "execution": {"kind": "shielded", "cluster": "c"}}}"#,
    r#"{"policy": {"similar": {}}}"#,
    r#"{"policy": {"similar": {"action": "refuse"}}}"#,
    r#"{"policy": {"key": {"required": true}, "similar": {}, "serialize": {"sources": [{"path_segment": 0}]}}}"#,
];

/// The list in the machine's documentation: for each state every event, and what may be awaited after it.
fn table() -> Vec<(String, BTreeMap<String, BTreeSet<String>>)> {
    transitions()
        .into_iter()
        .map(|(state, listed)| {
            let next = |event: &&str| {
                let next = listed.get(*event).map_or("=", String::as_str);
                next.split(", ").map(|next| if next == "=" { state.clone() } else { next.to_owned() }).collect()
            };
            let cells = EVENTS.iter().map(|event| ((*event).to_owned(), next(event))).collect();
            (state, cells)
        })
        .collect()
}

/// The list as it stands there: for each state what leads on.
fn transitions() -> Vec<(String, BTreeMap<String, String>)> {
    let (_, list) = SOURCE.split_once("# Transitions").expect("the list has a heading");
    let (list, _) = list.split_once("\nuse ").expect("the list ends where the code begins");
    let list = list.replace("\n//!   ", " ");
    let lines = list.lines().filter_map(|line| line.strip_prefix("//! - `")?.split_once("`: "));
    lines
        .map(|(state, items)| {
            let items = items.split(" · ").filter_map(|item| item.split_once(" → "));
            (state.to_owned(), items.map(|(event, next)| (event.to_owned(), next.to_owned())).collect())
        })
        .collect()
}

/// Where the machine goes from this state on any event of this kind, under any of the policies.
fn reached(state: &str, kind: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    for policy in POLICIES {
        each_meeting(state, kind, policy, |exchange, event| {
            let _ = exchange.handle(event);
            reached.insert(exchange.awaits().to_owned());
        });
    }
    reached
}

/// Every event of this kind, each with an exchange of its own in this state, reached in every way there is.
fn each_meeting(state: &str, kind: &str, policy: &str, mut check: impl FnMut(&mut Exchange, Event<'_>)) {
    for route in routes(state) {
        each_event(kind, |event| {
            let mut exchange = match state {
                "look-up" => looking(policy, route),
                "operator" => operating(policy, route),
                _ => walk(policy, route),
            };
            if exchange.awaits() == state {
                check(&mut exchange, event);
            }
        });
    }
}

/// The ways that lead to this state, under the policies that allow them.
fn routes(state: &str) -> &'static [&'static [&'static str]] {
    match state {
        "head" => &[&[]],
        "look-up" => &[&[], &["known"]],
        "operator" => &[&["look"], &["look", "found"], &["resolve"], &["resolve", "word"], &["forget"]],
        "body" => &[&["head"]],
        "claim" => &[&["head", "end"], &["head alone"]],
        "waiting" => &[&["head alone", "in flight"]],
        "renewal" => &[&["head alone", "granted late"]],
        "similar" => &[&["head alone", "granted"], &["head alone", "granted", "like another"]],
        "lock" => &[
            &["head alone", "granted"],
            &["head alone", "granted", "busy"],
            &["head alone", "granted", "busy", "renewed while it waits", "locked while it renews"],
        ],
        "response" | "shielded" => &[&["head alone", "granted"], &["head alone", "granted", "locked"]],
        "response-body" => &[&["head alone", "granted", "201"]],
        "save" => &[
            &["head alone", "granted", "201 alone"],
            &["head alone", "granted", "503"],
            &["head alone", "granted", "502"],
            &["head alone", "granted", "executed"],
            &["head alone", "granted", "executed in doubt"],
            &["head alone", "granted", "locked", "404 alone"],
            &["head alone", "granted", "locked", "404 alone", "settled"],
            &["head alone", "granted", "locked", "executed", "settled"],
        ],
        "unprotected" => &[&["no key"]],
        "answered" => &[&["bad key"], &["head alone", "replay"]],
        _ => &[&["grpc"]],
    }
}

fn looking(policy: &str, route: &[&str]) -> Exchange {
    let config = Config::parse(policy.as_bytes(), &|_| None).expect("the policy is right");
    let policy = Rc::clone(&config.rules[0].policy);
    if route == ["known"] {
        return Exchange::telling(policy, Rc::default(), Reply::issued("k", 5));
    }
    Exchange::looking(policy, Rc::default(), Name([0; 32]), None, Owner([1; 16]))
}

fn operating(policy: &str, route: &[&str]) -> Exchange {
    let config = Config::parse(policy.as_bytes(), &|_| None).expect("the policy is right");
    let deed = match route[0] {
        "look" => Deed::Look,
        "resolve" => Deed::Resolve,
        _ => Deed::Forget,
    };
    let operation = match deed {
        Deed::Look => Operation::Short([0; 6]),
        _ => Operation::Whole(Name([0; 32])),
    };
    let asked = Asked { operation, deed, remembered_s: None };
    let mut exchange = Exchange::operating(Rc::clone(&config.rules[0].policy), Rc::default(), asked, Owner([1; 16]));
    for step in &route[1..] {
        let clock = Clock::at(0);
        let kind = match *step {
            "found" => EventKind::Found { names: vec![Name([0; 32])], next: None },
            _ => EventKind::RequestBody {
                attribute: &|_| None,
                chunk: br#"{"ran": true}"#,
                overloaded: false,
                end: true,
                trailers: false,
            },
        };
        let _ = exchange.handle(Event { clock: &clock, kind });
    }
    exchange
}

fn in_state(state: &str, policy: &str) -> Exchange {
    walk(policy, routes(state)[0])
}

fn walk(policy: &str, route: &[&str]) -> Exchange {
    let config = Config::parse(policy.as_bytes(), &|_| None).expect("the policy is right");
    let mut exchange = Exchange::new(Rc::clone(&config.rules[0].policy), Rc::default());
    for step in route {
        let _: Step = match *step {
            "head" => request(&mut exchange, &[("idempotency-key", "k")], false),
            "head alone" => request(&mut exchange, &[("idempotency-key", "k")], true),
            "no key" => request(&mut exchange, &[], false),
            "bad key" => request(&mut exchange, &[("idempotency-key", "a,b")], false),
            "grpc" => request(&mut exchange, &[("content-type", "application/grpc")], false),
            "end" => exchange.handle(Event {
                clock: &Clock::at(0),
                kind: EventKind::RequestBody {
                    attribute: &|_| None,
                    chunk: b"x",
                    overloaded: false,
                    end: true,
                    trailers: false,
                },
            }),
            "granted late" => {
                let (asked, reply) = (ReplyKind::Claim, granted());
                exchange.handle(Event {
                    clock: &Clock::at(1_000_000),
                    kind: EventKind::StoreReplied { asked, reply, may_wait: true },
                })
            }
            "in flight" => answer(&mut exchange, ReplyKind::Claim, StoreReply::InFlight { attempt: 1 }),
            "granted" => answer(&mut exchange, ReplyKind::Claim, granted()),
            "like another" => answer(&mut exchange, ReplyKind::Similar, like_another()),
            "busy" => answer(&mut exchange, ReplyKind::Lock, StoreReply::Busy { wait_ms: 5 }),
            "locked" => answer(&mut exchange, ReplyKind::Lock, StoreReply::Locked { fence: 7 }),
            // A third of a lease has passed, and the store is slow to answer what it is asked then.
            "renewed while it waits" => {
                let kind = EventKind::Tick { owner: Owner([3; 16]) };
                exchange.handle(Event { clock: &Clock::at(400), kind })
            }
            "locked while it renews" => {
                let (asked, reply) = (ReplyKind::Lock, StoreReply::Locked { fence: 7 });
                let kind = EventKind::StoreReplied { asked, reply, may_wait: true };
                exchange.handle(Event { clock: &Clock::at(900), kind })
            }
            "settled" => answer(&mut exchange, ReplyKind::Settle, StoreReply::Settled),
            "404 alone" => respond(&mut exchange, 404, true),
            "replay" => answer(&mut exchange, ReplyKind::Claim, completed(Some(sealed(Some(b""))))),
            "201" => respond(&mut exchange, 201, false),
            "201 alone" => respond(&mut exchange, 201, true),
            "502" => respond(&mut exchange, 502, false),
            "503" => respond(&mut exchange, 503, false),
            "executed" => {
                let answer = Executed::Answered { status: 201, headers: &Headers::default(), body: b"done" };
                exchange.handle(Event { clock: &Clock::at(0), kind: EventKind::Executed { answer, overloaded: false } })
            }
            "executed in doubt" => {
                let answer = Executed::Answered { status: 502, headers: &Headers::default(), body: b"who knows" };
                exchange.handle(Event { clock: &Clock::at(0), kind: EventKind::Executed { answer, overloaded: false } })
            }
            other => panic!("no such step: {other}"),
        };
    }
    exchange
}

fn request(exchange: &mut Exchange, fields: &[(&str, &str)], end: bool) -> Step {
    let pseudo = [(":method", "POST"), (":path", "/pay"), (":authority", "api"), ("authorization", "me")];
    let head = RequestHead { headers: pseudo.iter().chain(fields).copied().collect() };
    exchange.handle(Event {
        clock: &Clock::at(0),
        kind: EventKind::RequestHeaders {
            head: &head,
            attribute: &|_| None,
            owner: Owner([1; 16]),
            upstream_key: UpstreamKey([2; 16]),
            end,
        },
    })
}

fn answer(exchange: &mut Exchange, asked: ReplyKind, reply: StoreReply) -> Step {
    exchange.handle(Event { clock: &Clock::at(0), kind: EventKind::StoreReplied { asked, reply, may_wait: true } })
}

fn respond(exchange: &mut Exchange, status: u16, end: bool) -> Step {
    let origin = Origin { details: b"via_upstream", attempts: Some(1), ..Origin::default() };
    exchange.handle(Event {
        clock: &Clock::at(0),
        kind: EventKind::ResponseHeaders { headers: &Headers::default(), status, origin, end },
    })
}

/// Calls `feed` with every event of this kind that may make a difference.
fn each_event(kind: &str, mut feed: impl FnMut(Event<'_>)) {
    match kind {
        "request head" => {
            let heads: [&[(&str, &str)]; 6] = [
                &[("idempotency-key", "k")],
                &[("idempotency-key", "k"), ("content-length", "9999999")],
                &[("idempotency-key", "k"), ("cookie", "c")],
                &[("idempotency-key", "")],
                &[("content-type", "application/grpc")],
                &[],
            ];
            for fields in heads {
                for end in [false, true] {
                    let pseudo =
                        [(":method", "POST"), (":path", "/pay"), (":authority", "api"), ("authorization", "me")];
                    let head = RequestHead { headers: pseudo.iter().chain(fields).copied().collect() };
                    feed(Event {
                        clock: &Clock::at(1),
                        kind: EventKind::RequestHeaders {
                            head: &head,
                            attribute: &|_| None,
                            owner: Owner([1; 16]),
                            upstream_key: UpstreamKey([2; 16]),
                            end,
                        },
                    });
                }
            }
        }
        "request body" => {
            for (chunk, overloaded, end) in [
                (b"".as_slice(), false, true),
                (b"four", false, false),
                (b"more than four", false, true),
                (b"", true, true),
                (&[b'x'; 20 << 10], false, false),
            ] {
                feed(Event {
                    clock: &Clock::at(1),
                    kind: EventKind::RequestBody { attribute: &|_| None, chunk, overloaded, end, trailers: false },
                });
            }
        }
        "claim reply" => {
            for reply in claim_verdicts() {
                for (now_ms, may_wait) in [(1, true), (1, false), (1_000_000, true)] {
                    feed(Event {
                        clock: &Clock::at(now_ms),
                        kind: EventKind::StoreReplied { asked: ReplyKind::Claim, reply: reply.clone(), may_wait },
                    });
                }
            }
        }
        "look reply" => {
            let seen = |standing| StoreReply::Seen(Some(RecordSummary { attempt: 1, standing, ttl_ms: 5 }));
            let failed = StoreReply::Failed(Failure::Timeout);
            for reply in [StoreReply::Seen(None), seen(RecordStatus::Running), seen(RecordStatus::Open), failed] {
                for now_ms in [1, 1_000_000] {
                    let (asked, reply) = (ReplyKind::Inspect, reply.clone());
                    let kind = EventKind::StoreReplied { asked, reply, may_wait: false };
                    feed(Event { clock: &Clock::at(now_ms), kind });
                }
            }
        }
        "similar reply" => {
            for reply in [StoreReply::Settled, like_another(), StoreReply::Failed(Failure::Timeout)] {
                for now_ms in [1, 1_000_000] {
                    let (asked, reply) = (ReplyKind::Similar, reply.clone());
                    let kind = EventKind::StoreReplied { asked, reply, may_wait: false };
                    feed(Event { clock: &Clock::at(now_ms), kind });
                }
            }
        }
        "lock reply" => {
            let replies = [
                StoreReply::Busy { wait_ms: 5 },
                StoreReply::Locked { fence: 7 },
                StoreReply::Lost,
                StoreReply::Failed(Failure::Timeout),
                StoreReply::Failed(Failure::Breaker),
            ];
            for reply in replies {
                for (now_ms, may_wait) in [(1, true), (1, false), (1_000_000, true)] {
                    let kind = EventKind::StoreReplied { asked: ReplyKind::Lock, reply: reply.clone(), may_wait };
                    feed(Event { clock: &Clock::at(now_ms), kind });
                }
            }
        }
        "renew-lock reply" | "unlock reply" => {
            let asked = if kind == "unlock reply" { ReplyKind::Unlock } else { ReplyKind::RenewLock };
            let held = [StoreReply::Locked { fence: 7 }, StoreReply::Settled];
            for reply in held.into_iter().chain([StoreReply::Lost, StoreReply::Failed(Failure::Timeout)]) {
                let kind = EventKind::StoreReplied { asked, reply, may_wait: false };
                feed(Event { clock: &Clock::at(1), kind });
            }
        }
        "found" => {
            for (names, next) in [
                (vec![], Some(7)),
                (vec![], None),
                (vec![Name([0; 32])], Some(7)),
                (vec![Name([0; 32])], None),
                (vec![Name([0; 32]), Name([0; 32])], None),
            ] {
                feed(Event { clock: &Clock::at(1), kind: EventKind::Found { names, next } });
            }
        }
        "resolve reply" => {
            for reply in [
                StoreReply::Settled,
                StoreReply::InFlight { attempt: 1 },
                StoreReply::Unknown { attempt: 1, wait_ms: 10 },
                StoreReply::Lost,
                StoreReply::Seen(None),
                StoreReply::Failed(Failure::Timeout),
            ] {
                feed(Event {
                    clock: &Clock::at(1),
                    kind: EventKind::StoreReplied { asked: ReplyKind::Resolve, reply, may_wait: false },
                });
            }
        }
        "renew reply" => {
            for reply in [
                StoreReply::Renewed { expires_ms: 5 },
                StoreReply::Lost,
                StoreReply::Failed(Failure::Contention),
                StoreReply::Failed(Failure::Timeout),
            ] {
                for now_ms in [950, 1_000_001, 9_000_000] {
                    feed(Event {
                        clock: &Clock::at(now_ms),
                        kind: EventKind::StoreReplied {
                            asked: ReplyKind::Renew,
                            reply: reply.clone(),
                            may_wait: false,
                        },
                    });
                }
            }
        }
        "mark reply" => {
            for reply in settle_verdicts() {
                feed(Event {
                    clock: &Clock::at(1),
                    kind: EventKind::StoreReplied { asked: ReplyKind::Mark, reply, may_wait: false },
                });
            }
        }
        "settle reply" => {
            for reply in settle_verdicts() {
                feed(Event {
                    clock: &Clock::at(1),
                    kind: EventKind::StoreReplied { asked: ReplyKind::Settle, reply, may_wait: false },
                });
            }
        }
        "response head" => {
            for origin in origins() {
                for status in [201, 404, 503] {
                    for (fields, end) in [
                        (&[][..], true),
                        (&[][..], false),
                        (&[("content-length", "9999999")][..], false),
                        (&[("content-type", "text/event-stream")][..], false),
                        (&[("idempotency-store", "retry")][..], false),
                    ] {
                        let headers: Headers = fields.iter().copied().collect();
                        feed(Event {
                            clock: &Clock::at(1),
                            kind: EventKind::ResponseHeaders { headers: &headers, status, origin, end },
                        });
                    }
                }
            }
        }
        "response body" => {
            for (buffered_bytes, overloaded, end) in
                [(1, false, false), (1, false, true), (1, true, false), (9_999_999, false, false)]
            {
                feed(Event {
                    clock: &Clock::at(1),
                    kind: EventKind::ResponseBody { buffered_bytes, whole: &Vec::new, overloaded, end },
                });
            }
        }
        "tick" => {
            for now_ms in [0, 100_000, 9_000_000] {
                feed(Event { clock: &Clock::at(now_ms), kind: EventKind::Tick { owner: Owner([3; 16]) } });
            }
        }
        "closed" => {
            for origin in origins() {
                for status in [None, Some(201), Some(422)] {
                    feed(Event { clock: &Clock::at(1), kind: EventKind::Closed { origin, status } });
                }
            }
        }
        "unable" => feed(Event { clock: &Clock::at(1), kind: EventKind::BodyUnavailable }),
        "executed" => {
            feed(Event {
                clock: &Clock::at(1),
                kind: EventKind::Executed { answer: Executed::Lost, overloaded: false },
            });
            feed(Event {
                clock: &Clock::at(1),
                kind: EventKind::Executed { answer: Executed::Unsent, overloaded: false },
            });
            for status in [201, 404, 503] {
                for details in ["via_upstream", "response_timeout", "-", "idempotency_mismatch"] {
                    let account =
                        [("details", details), ("attempts", "1"), ("flags", "-"), ("sent", "0"), ("owner", "-")];
                    let account = account.map(|(name, value)| (format!("x-idempotency-{name}"), value));
                    let headers = account.iter().map(|(name, value)| (name.as_str(), *value)).collect();
                    for body in [b"".as_slice(), b"more than four"] {
                        feed(Event {
                            clock: &Clock::at(1),
                            kind: EventKind::Executed {
                                answer: Executed::Answered { status, headers: &headers, body },
                                overloaded: body.len() > 4,
                            },
                        });
                    }
                }
            }
        }
        other => panic!("the table names an event that does not exist: {other}"),
    }
}

fn claim_verdicts() -> Vec<StoreReply> {
    vec![
        granted(),
        completed(None),
        completed(Some(b"garbage".to_vec())),
        completed(Some(sealed(None))),
        completed(Some(sealed(Some(b"body")))),
        StoreReply::Failed(Failure::Full),
        StoreReply::Failed(Failure::Timeout),
        StoreReply::Exhausted { attempt: 2 },
        StoreReply::InFlight { attempt: 1 },
        StoreReply::InFlight { attempt: 3 },
        StoreReply::Mismatch,
        StoreReply::Stale,
        StoreReply::Unknown { attempt: 1, wait_ms: 10 },
    ]
}

fn settle_verdicts() -> [StoreReply; 4] {
    [StoreReply::Settled, StoreReply::Dropped, StoreReply::Lost, StoreReply::Failed(Failure::Corrupt)]
}

/// The router as chains call it.
const ROUTER: &str = "envoy.filters.http.router";

fn origins() -> [Origin<'static>; 12] {
    let origin = |details: &'static str, attempts, flag: &str, owner: &'static str| Origin {
        details: details.as_bytes(),
        attempts,
        flags: flags(flag.as_bytes()),
        owner: (!owner.is_empty()).then_some(owner.as_bytes()),
        ..Origin::default()
    };
    [
        origin("via_upstream", Some(1), "", ""),
        origin("via_upstream", Some(3), "", ""),
        origin("response_timeout", Some(1), "", ROUTER),
        origin("upstream_reset_before_response_started{connection_termination}", Some(1), "UC", ROUTER),
        origin("no_healthy_upstream", Some(0), "UH", ROUTER),
        origin("downstream_remote_disconnect", Some(1), "", ""),
        origin("internal_redirect", Some(1), "", ""),
        origin("request_payload_too_large", Some(0), "", ""),
        origin("idempotency_mismatch", Some(0), "", "idempotency"),
        origin("direct_response", Some(0), "", ROUTER),
        origin("lua_response", Some(0), "", "lua"),
        origin("lua_response", Some(1), "", "lua"),
    ]
}

fn granted() -> StoreReply {
    StoreReply::Granted { attempt: 1, doubt: false, key: KeyForm::Bare, expires_ms: 1000 }
}

fn like_another() -> StoreReply {
    StoreReply::Similar { operation: Name([9; 32]), since_ms: 77, age_ms: 5000 }
}

fn completed(response: Option<Vec<u8>>) -> StoreReply {
    StoreReply::Completed { attempt: 1, status: Some(201), response, age_ms: 5, ttl_ms: 50 }
}

/// A response as a gateway without keys seals it.
fn sealed(body: Option<&[u8]>) -> Vec<u8> {
    let headers = [("location", "/p/1")].into_iter().collect();
    let response = Response { status: 201, headers, body: body.map(<[u8]>::to_vec), negotiated: false };
    ResponseCipher::default().seal(&Name([0; 32]), Owner([1; 16]), &response.encode()).expect("it is small")
}
