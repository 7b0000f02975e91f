//! The judge notices what must not be, and lets pass what a fault excuses, no more.
//!
//! One rule: each history differs from a clean one in a single thing.
//! It does not know of real gateways: see `short.rs`.

use chaos::checker::judge;
use chaos::history::{Answer, Asked, End, Execution, History, Kind, Loss, Lost, Name, Sent, Span};
use chaos::upstream::body_of;

const MS: u64 = 1000;
const LEASE_MS: u64 = 1000;

/// A history in the making; times are in milliseconds.
#[derive(Default)]
struct Tale {
    history: History,
}

impl Tale {
    fn new() -> Tale {
        let history = History { bound_us: 5000 * MS, lease_us: LEASE_MS * MS, ..History::default() };
        Tale { history }
    }

    /// A request of 20 ms, with this end.
    fn asks(&mut self, name: &Name, payload: &str, at_ms: u64, end: End) -> &mut Asked {
        let id = self.history.asked.len() as u64 + 1;
        let (name, payload, sent_us, done_us) = (name.clone(), payload.to_owned(), at_ms * MS, (at_ms + 20) * MS);
        self.history.asked.push(Asked { id, name, payload, gateway: 0, sent_us, done_us, end });
        self.history.asked.last_mut().unwrap()
    }

    /// A request that executes as this attempt and is told so.
    fn executes(&mut self, name: &Name, payload: &str, at_ms: u64, attempt: u64, status: u16) -> u64 {
        let n = self.history.executions.len() as u64 + 1;
        let line = match status {
            ..400 => format!("executed;stored=?1;attempt={attempt};ttl=1800"),
            _ => format!("executed;stored=?0;attempt={attempt};outcome=released"),
        };
        let answer = answer_of(n, status, &line);
        let request = self.asks(name, payload, at_ms, End::Answer(answer)).id;
        self.enters(name, payload, at_ms, attempt, request);
        self.history.executions[n as usize - 1].status = status;
        n
    }

    /// As `executes`, but the client hears nothing.
    fn executes_unheard(&mut self, name: &Name, payload: &str, at_ms: u64, attempt: u64) -> u64 {
        let request = self.asks(name, payload, at_ms, End::HungUp).id;
        self.enters(name, payload, at_ms, attempt, request)
    }

    fn enters(&mut self, name: &Name, payload: &str, at_ms: u64, attempt: u64, request: u64) -> u64 {
        let n = self.history.executions.len() as u64 + 1;
        self.history.executions.push(Execution {
            n,
            request,
            path: name.kind.path().to_owned(),
            tenant: name.tenant.clone(),
            key: name.key.clone(),
            payload: payload.to_owned(),
            attempt,
            operation: format!("{name:?}"),
            resource: String::new(),
            fence: 0,
            at_us: (at_ms + 10) * MS,
            ended_us: None,
            status: 201,
            body_len: body_of(n, 0).len(),
            sent: Sent::Whole,
        });
        n
    }

    /// A request about the one resource, which the service has from 10 ms on for so long.
    fn takes(&mut self, key: &str, at_ms: u64, lasts_ms: u64, fence: u64) -> &mut Execution {
        let n = self.executes(&Name { key: key.to_owned(), ..name(Kind::Locked, "a") }, "p", at_ms, 1, 201);
        let taken = &mut self.history.executions[n as usize - 1];
        (taken.resource, taken.fence) = ("r".to_owned(), fence);
        taken.ended_us = Some(taken.at_us + lasts_ms * MS);
        taken
    }

    fn replays(&mut self, name: &Name, payload: &str, at_ms: u64, n: u64) -> &mut Asked {
        let attempt = self.history.executions[n as usize - 1].attempt;
        let answer = answer_of(n, 201, &format!("replayed;attempt={attempt};age=0;ttl=1800"));
        self.asks(name, payload, at_ms, End::Answer(Answer { is_marked: true, ..answer }))
    }

    fn refuses(&mut self, name: &Name, payload: &str, at_ms: u64, status: u16, slug: &str) {
        let answer = Answer { status, line: format!("refused;reason={slug}"), ..Answer::default() };
        self.asks(name, payload, at_ms, End::Answer(answer));
    }

    fn loses(&mut self, at_ms: u64, lost: Lost) {
        let span = Span { from_us: at_ms * MS, to_us: (at_ms + 5) * MS };
        self.history.excuses.losses.push(Loss { span, lost });
    }

    #[track_caller]
    fn is_fine(&self) {
        let wrong = judge(&self.history);
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[track_caller]
    fn shows(&self, what: &str) {
        let wrong = judge(&self.history);
        assert!(wrong.iter().any(|violation| violation.what.contains(what)), "{wrong:?}");
    }
}

fn answer_of(n: u64, status: u16, line: &str) -> Answer {
    Answer {
        status,
        line: line.to_owned(),
        execution: Some(n),
        location: format!("/payments/{n}"),
        is_marked: false,
        body: body_of(n, 0),
    }
}

fn name(kind: Kind, tenant: &str) -> Name {
    Name { kind, tenant: tenant.to_owned(), key: "k".to_owned() }
}

fn pay() -> Name {
    name(Kind::Retry, "a")
}

/// The answer of the last request.
fn last(tale: &mut Tale) -> &mut Answer {
    match &mut tale.history.asked.last_mut().unwrap().end {
        End::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_execution_its_replays_its_refusals_and_another_tenant_are_fine() {
    let mut tale = Tale::new();
    let first = tale.executes(&pay(), "p", 0, 1, 201);
    tale.replays(&pay(), "p", 30, first);
    tale.refuses(&pay(), "q", 60, 409, "mismatch");
    tale.refuses(&pay(), "p", 5, 429, "in-flight");
    tale.executes(&name(Kind::Retry, "b"), "p", 90, 1, 201);
    tale.is_fine();
}

#[test]
fn a_double_execution_is_noticed() {
    let mut tale = Tale::new();
    tale.executes(&pay(), "p", 0, 1, 201);
    tale.executes(&pay(), "p", 5000, 2, 201);
    tale.shows("a client had been told that the earlier one is stored");
}

#[test]
fn a_takeover_is_fine_after_the_lease_only_and_never_where_the_policy_holds() {
    for (kind, at_ms, expected) in [
        (Kind::Retry, LEASE_MS + 50, None),
        (Kind::Retry, LEASE_MS - 50, Some("within the earlier one's lease")),
        (Kind::Hold, LEASE_MS + 50, Some("the policy holds")),
    ] {
        let mut tale = Tale::new();
        tale.executes_unheard(&name(kind, "a"), "p", 0, 1);
        tale.executes(&name(kind, "a"), "p", at_ms, 2, 201);
        expected.map_or_else(|| tale.is_fine(), |what| tale.shows(what));
    }
}

#[test]
fn a_failure_frees_the_key_at_once_and_only_a_4xx_for_another_payload() {
    for (status, payload, is_fine) in [(500, "p", true), (422, "q", true), (500, "q", false), (502, "p", false)] {
        let mut tale = Tale::new();
        tale.executes(&pay(), "p", 0, 1, status);
        tale.executes(&pay(), payload, 100, 2, 201);
        assert_eq!(judge(&tale.history).is_empty(), is_fine, "{status} {payload}");
    }
}

#[test]
fn another_payload_that_executes_is_noticed() {
    let mut tale = Tale::new();
    tale.executes_unheard(&pay(), "p", 0, 1);
    tale.executes(&pay(), "q", 5000, 2, 201);
    tale.shows("another payload");
}

#[test]
fn an_attempt_that_does_not_grow_is_noticed() {
    let mut tale = Tale::new();
    tale.executes(&pay(), "p", 0, 2, 500);
    tale.executes(&pay(), "p", 100, 2, 500);
    tale.shows("the same number twice");
    let mut tale = Tale::new();
    tale.executes(&pay(), "p", 0, 2, 500);
    tale.executes(&pay(), "p", 100, 1, 500);
    tale.shows("the number did not grow");
    // On its way to a service that stood still, the second overtook the first.
    tale.history.excuses.stalls.push(Span { from_us: 0, to_us: 200 * MS });
    tale.is_fine();
}

#[test]
fn an_execution_without_a_claim_is_noticed() {
    let mut tale = Tale::new();
    tale.executes(&pay(), "p", 0, 0, 500);
    tale.shows("without a claim");
}

#[test]
fn a_wrong_replay_is_noticed() {
    let change: [fn(&mut Answer); 6] = [
        |answer| answer.body[5] ^= 1,
        |answer| answer.status = 200,
        |answer| answer.location.push('0'),
        |answer| answer.is_marked = false,
        |answer| answer.execution = Some(7),
        |answer| answer.line = answer.line.replace("attempt=1", "attempt=0"),
    ];
    for change in change {
        let mut tale = Tale::new();
        let first = tale.executes(&pay(), "p", 0, 1, 201);
        tale.replays(&pay(), "p", 30, first);
        change(last(&mut tale));
        tale.shows("got a");
    }
}

#[test]
fn a_replay_of_an_answer_that_the_service_never_finished_is_noticed() {
    let mut tale = Tale::new();
    let first = tale.executes_unheard(&pay(), "p", 0, 1);
    tale.history.executions[0].sent = Sent::Head;
    tale.replays(&pay(), "p", 30, first);
    tale.shows("another answer than execution 1 gave");
}

#[test]
fn a_replay_across_tenants_is_noticed() {
    let mut tale = Tale::new();
    let first = tale.executes(&pay(), "p", 0, 1, 201);
    tale.replays(&name(Kind::Retry, "b"), "p", 30, first);
    tale.shows("a replay of something else");
}

#[test]
fn a_replay_for_another_payload_is_noticed() {
    let mut tale = Tale::new();
    let first = tale.executes(&pay(), "p", 0, 1, 201);
    tale.replays(&pay(), "q", 30, first);
    tale.shows("a replay of something else");
}

#[test]
fn two_names_of_one_operation_are_noticed() {
    let mut tale = Tale::new();
    tale.executes(&pay(), "p", 0, 1, 201);
    tale.executes(&name(Kind::Retry, "b"), "p", 30, 1, 201);
    let operation = tale.history.executions[0].operation.clone();
    tale.history.executions[1].operation = operation;
    tale.shows("the operation of another name");
}

#[test]
fn a_refusal_of_what_executed_is_noticed() {
    let mut tale = Tale::new();
    tale.refuses(&pay(), "p", 0, 503, "store-unavailable");
    tale.is_fine();
    tale.enters(&pay(), "p", 0, 1, 1);
    tale.shows("executed, and was told");
}

#[test]
fn a_refusal_that_nobody_else_gave_a_reason_for_is_noticed() {
    for (status, slug) in [(429, "in-flight"), (409, "outcome-unknown"), (409, "mismatch"), (409, "not-replayable")] {
        let mut tale = Tale::new();
        tale.refuses(&pay(), "p", 0, status, slug);
        tale.shows("was refused for no reason");
    }
}

#[test]
fn a_request_that_ran_unprotected_is_noticed() {
    let mut tale = Tale::new();
    tale.executes(&pay(), "p", 0, 1, 201);
    last(&mut tale).line = "bypassed;reason=store-failure".to_owned();
    tale.shows("bypassed");
}

#[test]
fn a_request_past_its_bound_is_noticed() {
    let mut tale = Tale::new();
    tale.executes(&pay(), "p", 0, 1, 201);
    tale.history.asked[0].done_us = 5001 * MS;
    tale.shows("are the bound");
    // Two milliseconds of it the machine stood still.
    tale.history.excuses.pauses.push(Span { from_us: 99 * MS, to_us: 101 * MS });
    tale.is_fine();
}

#[test]
fn an_answer_that_never_came_is_noticed_unless_connections_were_broken() {
    let mut tale = Tale::new();
    tale.asks(&pay(), "p", 100, End::Broken("reset".to_owned()));
    tale.shows("got no answer");
    tale.history.excuses.breaks.push(Span { from_us: 110 * MS, to_us: 115 * MS });
    tale.is_fine();
}

#[test]
fn an_unprotected_request_that_is_not_served_is_noticed_unless_the_service_had_troubles() {
    let passer_by = Name { key: String::new(), ..name(Kind::Plain, "a") };
    let mut tale = Tale::new();
    tale.executes(&passer_by, "p", 0, 0, 201);
    last(&mut tale).line.clear();
    tale.executes(&passer_by, "p", 10, 0, 201);
    last(&mut tale).line.clear();
    tale.is_fine();
    tale.asks(&passer_by, "p", 100, End::Answer(Answer { status: 503, ..Answer::default() }));
    tale.shows("passed by and was not served");
    tale.history.excuses.troubles.push(Span { from_us: 90 * MS, to_us: 101 * MS });
    tale.is_fine();
}

#[test]
fn an_execution_that_nobody_asked_for_is_noticed() {
    let mut tale = Tale::new();
    tale.enters(&pay(), "p", 0, 1, 99);
    tale.shows("which nobody sent");
}

#[test]
fn one_request_that_executes_twice_is_noticed() {
    let mut tale = Tale::new();
    tale.executes(&pay(), "p", 0, 1, 201);
    tale.enters(&pay(), "p", 2000, 2, 1);
    tale.shows("executed twice");
}

#[test]
fn what_was_told_to_be_stored_stays_what_it_is() {
    let mut tale = Tale::new();
    tale.executes(&pay(), "p", 0, 1, 201);
    tale.refuses(&pay(), "p", 3000, 409, "outcome-unknown");
    tale.shows("was told to be stored, and then");
}

#[test]
fn a_success_that_a_living_gateway_knows_is_not_unknown_for_ever() {
    let tale = |later_ms: u64, kind: Kind| {
        let mut tale = Tale::new();
        tale.executes(&name(kind, "a"), "p", 1000, 1, 201);
        last(&mut tale).line = "executed;stored=?0;attempt=1".to_owned();
        tale.refuses(&name(kind, "a"), "p", 1000 + later_ms, 409, "outcome-unknown");
        tale
    };
    tale(19_000, Kind::Hold).is_fine();
    tale(30_000, Kind::Hold).shows("a gateway knew the outcome of execution 1");
    // Another attempt may stand in its way.
    tale(30_000, Kind::Retry).is_fine();
    let mut forgets = tale(30_000, Kind::Hold);
    forgets.history.excuses.forgets.push(Span { from_us: 2000 * MS, to_us: 2010 * MS });
    forgets.is_fine();
    let mut lost = tale(30_000, Kind::Hold);
    lost.loses(25_000, Lost::Everything);
    lost.is_fine();
}

#[test]
fn an_attempt_that_a_stream_reset_has_hidden_is_not_taken_over_at_once() {
    for kind in [Kind::Http2, Kind::Socket] {
        let mut tale = Tale::new();
        tale.executes_unheard(&name(kind, "a"), "p", 0, 1);
        tale.history.executions[0].sent = Sent::Nothing;
        tale.executes(&name(kind, "a"), "p", LEASE_MS - 50, 2, 201);
        tale.shows("within the earlier one's lease");
    }
}

#[test]
fn a_loss_excuses_one_execution_more_of_what_was_recorded_before_it() {
    let twice = |loss_ms: u64, lost: Lost| {
        let mut tale = Tale::new();
        let first = tale.executes(&pay(), "p", 1000, 1, 201);
        tale.loses(loss_ms, lost);
        let second = tale.executes(&pay(), "p", 2000, 1, 201);
        // Gateways may remember either.
        tale.replays(&pay(), "p", 2100, first);
        tale.replays(&pay(), "p", 2200, second);
        tale.refuses(&pay(), "p", 2300, 409, "not-replayable");
        tale
    };
    twice(1500, Lost::Everything).is_fine();
    twice(500, Lost::Everything).shows("the same number twice");
    twice(2500, Lost::Everything).shows("the same number twice");
    twice(1500, Lost::Since(900 * MS)).is_fine();
    twice(1500, Lost::Since(1200 * MS)).shows("the same number twice");
    twice(1500, Lost::Operations([format!("{:?}", pay())].into())).is_fine();
    twice(1500, Lost::Operations(["another".to_owned()].into())).shows("the same number twice");

    let mut tale = twice(1500, Lost::Everything);
    tale.executes(&pay(), "p", 3000, 1, 201);
    tale.shows("the same number twice");
}

#[test]
fn a_loss_excuses_no_second_execution_more() {
    let mut tale = Tale::new();
    tale.executes_unheard(&pay(), "p", 1000, 1);
    tale.loses(1500, Lost::Everything);
    tale.executes_unheard(&pay(), "p", 1495, 1);
    tale.is_fine();
    tale.executes_unheard(&pay(), "p", 1504, 1);
    tale.shows("2 executions need a loss to excuse them, and there were 1");
}

#[test]
fn turns_at_one_resource_one_after_the_other_are_fine() {
    let mut tale = Tale::new();
    tale.takes("a", 0, 5, 7);
    tale.takes("b", 5, 5, 8);
    tale.takes("c", 6, 5, 9).resource = "another".to_owned();
    tale.is_fine();
    let busy = Name { key: "d".to_owned(), ..name(Kind::Locked, "a") };
    tale.refuses(&busy, "p", 30, 429, "resource-busy");
    tale.is_fine();
    tale.refuses(&pay(), "p", 30, 429, "resource-busy");
    tale.shows("was refused for no reason");
}

#[test]
fn a_turn_without_a_lock_and_a_lock_that_no_rule_asks_for_are_noticed() {
    let mut tale = Tale::new();
    tale.takes("a", 0, 5, 0);
    tale.shows("ran without a lock");
    let mut tale = Tale::new();
    tale.executes(&pay(), "p", 0, 1, 201);
    tale.history.executions[0].fence = 7;
    tale.shows("ran without a lock");
}

#[test]
fn two_turns_at_once_are_fine_past_the_lease_of_the_first_only() {
    for (at_ms, is_fine) in [(LEASE_MS - 50, false), (LEASE_MS + 50, true)] {
        for heard in [true, false] {
            let mut tale = Tale::new();
            let late = tale.takes("a", 0, 2 * LEASE_MS, 7);
            late.status = 412;
            late.ended_us = late.ended_us.filter(|_| heard);
            tale.history.asked[0].end = End::HungUp;
            tale.takes("b", at_ms, 5, 8);
            assert_eq!(judge(&tale.history).is_empty(), is_fine, "{at_ms} {heard}");
        }
    }
    let tale = |lost| {
        let mut tale = Tale::new();
        let late = tale.takes("a", 0, 500, 7);
        late.status = 412;
        tale.history.asked[0].end = End::HungUp;
        tale.loses(100, lost);
        tale.takes("b", 200, 5, 8);
        tale
    };
    tale(Lost::Everything).is_fine();
    tale(Lost::Operations(["a lock".to_owned()].into())).is_fine();
    let operation = tale(Lost::Everything).history.executions[0].operation.clone();
    tale(Lost::Operations([operation].into())).shows("both had it at once");
}

#[test]
fn a_fence_that_does_not_grow_is_noticed_also_after_a_loss() {
    for fence in [7, 6] {
        let mut tale = Tale::new();
        tale.takes("a", 0, 5, 7);
        tale.loses(30, Lost::Everything);
        tale.takes("b", 50, 5, fence).status = if fence < 7 { 412 } else { 201 };
        tale.history.asked[1].end = End::HungUp;
        tale.shows("the fence did not grow");
        // What has set the clock back has taken it along.
        tale.history.excuses.jumps.push(Span { from_us: 20 * MS, to_us: 25 * MS });
        tale.is_fine();
        tale.history.excuses.losses.clear();
        tale.shows("the fence did not grow");
    }
}

#[test]
fn a_turn_that_was_overtaken_on_its_way_is_fine_if_the_service_did_not_take_its_write() {
    let mut tale = Tale::new();
    tale.takes("b", 20, 5, 8);
    let late = tale.takes("a", 0, 5, 7);
    (late.status, late.at_us, late.ended_us) = (412, 1040 * MS, Some(1045 * MS));
    tale.history.asked[1].end = End::HungUp;
    tale.shows("the fence did not grow");
    tale.history.excuses.stalls.push(Span { from_us: 0, to_us: 1050 * MS });
    tale.is_fine();
    tale.history.executions[1].status = 201;
    tale.shows("a write under a smaller fence");
}
