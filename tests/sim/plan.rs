//! What one seed asks of the world: which faults may strike, what the operator configured, who sends what.
//!
//! Its one rule: a plan follows from its seed alone, and any part of it can be left out without changing the rest.

use envoy_idempotency::store::client::Limits;
use host_model::Random;

/// One kind of adversity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Fault {
    AnswerMeddled,
    AnswersAnother,
    BodiesHidden,
    CallDelayed,
    CallDuplicated,
    CallLost,
    CellsContended,
    ClientHangsUp,
    ClientLies,
    ClientReusesKey,
    ClientSendsMuch,
    ClockBack,
    ClockForward,
    CommandRefused,
    GatewayCrashes,
    GatewayPauses,
    GatewayReloads,
    HostAnswers,
    OperationFails,
    OperatorForgets,
    OperatorResolves,
    ReplyCrossed,
    ReplyDelayed,
    ReplyDuplicated,
    ReplyGarbage,
    ReplyLost,
    ReplyTruncated,
    RouterRetries,
    ScriptsForgotten,
    ShieldedLost,
    ShieldedUnsent,
    StoreCrashes,
    StoreFailsOver,
    StoreFlushed,
    StoreFull,
    StoreLosesWrites,
    StoreRefuses,
    StoreStops,
    StreamCutAfter,
    StreamCutBefore,
    StreamCutInWrite,
    StreamCutInside,
    StreamRefused,
    UpstreamDiesInBody,
    UpstreamFails,
    UpstreamRefuses,
    UpstreamResets,
    UpstreamSaysMuch,
    UpstreamSlow,
    UpstreamSteers,
    UpstreamTimesOut,
    UpstreamTrickles,
    UpstreamUnreached,
    WorkerCrowded,
}

impl Fault {
    pub const ALL: [Fault; 54] = [
        Fault::AnswerMeddled,
        Fault::AnswersAnother,
        Fault::BodiesHidden,
        Fault::CallDelayed,
        Fault::CallDuplicated,
        Fault::CallLost,
        Fault::CellsContended,
        Fault::ClientHangsUp,
        Fault::ClientLies,
        Fault::ClientReusesKey,
        Fault::ClientSendsMuch,
        Fault::ClockBack,
        Fault::ClockForward,
        Fault::CommandRefused,
        Fault::GatewayCrashes,
        Fault::GatewayPauses,
        Fault::GatewayReloads,
        Fault::HostAnswers,
        Fault::OperationFails,
        Fault::OperatorForgets,
        Fault::OperatorResolves,
        Fault::ReplyCrossed,
        Fault::ReplyDelayed,
        Fault::ReplyDuplicated,
        Fault::ReplyGarbage,
        Fault::ReplyLost,
        Fault::ReplyTruncated,
        Fault::RouterRetries,
        Fault::ScriptsForgotten,
        Fault::ShieldedLost,
        Fault::ShieldedUnsent,
        Fault::StoreCrashes,
        Fault::StoreFailsOver,
        Fault::StoreFlushed,
        Fault::StoreFull,
        Fault::StoreLosesWrites,
        Fault::StoreRefuses,
        Fault::StoreStops,
        Fault::StreamCutAfter,
        Fault::StreamCutBefore,
        Fault::StreamCutInWrite,
        Fault::StreamCutInside,
        Fault::StreamRefused,
        Fault::UpstreamDiesInBody,
        Fault::UpstreamFails,
        Fault::UpstreamRefuses,
        Fault::UpstreamResets,
        Fault::UpstreamSaysMuch,
        Fault::UpstreamSlow,
        Fault::UpstreamSteers,
        Fault::UpstreamTimesOut,
        Fault::UpstreamTrickles,
        Fault::UpstreamUnreached,
        Fault::WorkerCrowded,
    ];

    /// Those that strike now and then by themselves; the others strike a message.
    pub const SUDDEN: [Fault; 13] = [
        Fault::ClockBack,
        Fault::ClockForward,
        Fault::GatewayCrashes,
        Fault::GatewayPauses,
        Fault::GatewayReloads,
        Fault::StoreCrashes,
        Fault::StoreFailsOver,
        Fault::StoreFlushed,
        Fault::StoreFull,
        Fault::StoreLosesWrites,
        Fault::StoreRefuses,
        Fault::StoreStops,
        // Last, so that the seeds of before stay what they were.
        Fault::ScriptsForgotten,
    ];

    /// Those that a store inside the gateway, or a store outside it, cannot meet.
    fn strikes(self, is_embedded: bool) -> bool {
        let inside = matches!(self, Fault::CellsContended);
        let outside = matches!(
            self,
            Fault::AnswersAnother
                | Fault::CallDelayed
                | Fault::CallDuplicated
                | Fault::CallLost
                | Fault::ClockBack
                | Fault::ClockForward
                | Fault::OperationFails
                | Fault::ReplyCrossed
                | Fault::ReplyDelayed
                | Fault::ReplyDuplicated
                | Fault::ReplyGarbage
                | Fault::ReplyLost
                | Fault::ReplyTruncated
                | Fault::StoreCrashes
                | Fault::StoreFailsOver
                | Fault::StoreFlushed
                | Fault::StoreFull
                | Fault::StoreLosesWrites
                | Fault::StoreRefuses
                | Fault::StoreStops
        );
        if is_embedded { !outside } else { !inside }
    }

    /// Those that only a request of the gateway's own can meet.
    fn is_of_shielding(self) -> bool {
        matches!(self, Fault::ShieldedLost | Fault::ShieldedUnsent)
    }

    /// Those that only streams to the store can meet.
    fn is_of_streams(self) -> bool {
        matches!(
            self,
            Fault::CommandRefused
                | Fault::ScriptsForgotten
                | Fault::StreamCutAfter
                | Fault::StreamCutBefore
                | Fault::StreamCutInWrite
                | Fault::StreamCutInside
                | Fault::StreamRefused
        )
    }

    /// What operators do, who come to few worlds, by dice of their own.
    fn is_of_operators(self) -> bool {
        matches!(self, Fault::OperatorForgets | Fault::OperatorResolves)
    }

    /// Those that came to the plan later, and have dice of their own, so that the seeds of before stay what they were.
    fn came_later(self) -> bool {
        matches!(self, Fault::AnswerMeddled | Fault::UpstreamTrickles)
    }

    /// After these the store has forgotten what it had acknowledged.
    pub fn loses_writes(self) -> bool {
        matches!(self, Fault::StoreFailsOver | Fault::StoreFlushed | Fault::StoreLosesWrites)
    }
}

/// A set of faults.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Faults(pub u64);

impl Faults {
    pub const NONE: Faults = Faults(0);

    pub fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u8) != 0
    }

    pub fn without(self, fault: Fault) -> Faults {
        Faults(self.0 & !(1 << fault as u8))
    }

    pub fn with(self, fault: Fault) -> Faults {
        Faults(self.0 | (1 << fault as u8))
    }

    pub fn list(self) -> Vec<Fault> {
        Fault::ALL.into_iter().filter(|fault| self.has(*fault)).collect()
    }
}

/// Payloads from this one on are so large that a overloaded worker refuses them.
pub const LARGE: u8 = 3;
/// The payload that is larger than the policy allows.
pub const TOO_LARGE: u8 = 4;

/// Who sends one operation, and how stubbornly.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub tenant: u8,
    pub key: u8,
    pub payload: u8,
    pub start_ms: u64,
    pub tries: u64,
    /// Whether it goes on although it knows.
    pub insists: bool,
}

/// How the gateway itself executes.
#[derive(Clone, Copy, Debug)]
pub struct Shielding {
    /// How many of the five fields the internal listener writes down by which it tells how an answer came about.
    pub fields: usize,
    /// How long the upstream may take.
    pub timeout_ms: u64,
}

/// What one seed asks of the world.
#[derive(Clone)]
pub struct Plan {
    pub seed: u64,
    pub faults: Faults,
    /// How often a message is struck, in a thousand, by each kind of fault there is.
    pub strikes: u64,
    /// How long between two sudden faults, on average.
    pub calm_ms: u64,
    pub gateways: usize,
    pub workers: usize,
    pub forwards: bool,
    pub holds: bool,
    pub conflicts: bool,
    /// How long duplicates wait, where they wait.
    pub waits_ms: Option<u64>,
    /// How long requests for one resource wait for their turn, where they run one at a time.
    pub serializes_ms: Option<u64>,
    /// For how long keys may begin an operation, where only those count that the gateway has issued: all of them when the
    /// world began.
    pub issued_s: Option<u64>,
    /// For how long what a tenant has sent counts where it comes under another key, and whether that is refused then.
    pub similar: Option<(u64, bool)>,
    /// Whether the client does not wait for the store to hear how it ended.
    pub saves_after: bool,
    /// Whether clients look what is known of an operation, too.
    pub looks: bool,
    /// None where the clients' own requests go upstream.
    pub shields: Option<Shielding>,
    /// Whether requests that are too large go up unprotected.
    pub bypasses: bool,
    /// Of the first policy, and of the one after a reload: whether it is only tried.
    pub observes: [bool; 2],
    /// The store is each gateway's own table of so many bytes.
    pub embedded: Option<u64>,
    /// The second is for gateways that were reloaded.
    pub leases_ms: [u64; 2],
    pub ttl_s: u64,
    pub limits: Limits,
    /// Whether a stream to the store logs in first.
    pub logs_in: bool,
    pub clients: Vec<Client>,
}

impl Plan {
    /// Whether calls to the store go out as commands on streams.
    pub fn has_streams(&self) -> bool {
        self.limits.large_bytes.is_some() && self.embedded.is_none()
    }

    /// Whether a crash may be that of one worker's VM alone.
    pub fn may_lose_a_worker(&self) -> bool {
        self.embedded.is_some() || self.has_streams()
    }

    /// Whether gateways remember what a shared store has told them. Not where it loses what it acknowledged, or its
    /// clock jumps: a record that is remembered then outlives the store's own, and the oracle knows of those alone.
    pub fn remembers(&self) -> bool {
        use Fault::{ClockBack, ClockForward, StoreCrashes, StoreFailsOver, StoreFlushed, StoreLosesWrites};
        let forgets = [ClockBack, ClockForward, StoreCrashes, StoreFailsOver, StoreFlushed, StoreLosesWrites];
        let is_steady = !forgets.into_iter().any(|fault| self.faults.has(fault));
        self.embedded.is_none() && self.seed % 2 == 1 && is_steady
    }

    pub fn new(seed: u64) -> Plan {
        let mut random = Random::of(seed, 1);
        let embedded = random.chance(150).then(|| *random.pick(&[4 << 10, 64 << 10, 1 << 20]));
        let share = *random.pick(&[150, 300, 500, 800]);
        let mut faults = Faults::NONE;
        let is_first = |fault: &Fault| {
            !fault.is_of_shielding() && !fault.came_later() && !fault.is_of_streams() && !fault.is_of_operators()
        };
        for fault in Fault::ALL.into_iter().filter(is_first) {
            // Lost writes excuse much; most runs are without.
            let share = if fault.loses_writes() { share / 4 } else { share };
            if random.chance(share) && fault.strikes(embedded.is_some()) {
                faults = faults.with(fault);
            }
        }
        let lease = *random.pick(&[1000, 1000, 1500, 3000]);
        // On streams to the store calls go out at once, and the large ones on another.
        let has_streams = seed.is_multiple_of(3);
        let limits = Limits {
            attempts: random.between(1, 3) as u32,
            timeout_ms: *random.pick(&[50, 100, 250, 400]),
            max_calls: random.between(1, 2) as usize,
            max_batch: *random.pick(&[1, 2, 8, 64]),
            max_batch_bytes: *random.pick(&[256, 4096]),
            large_bytes: has_streams.then_some(64),
            max_queued: *random.pick(&[2, 16, 1000]),
            max_owed_bytes: if embedded.is_some() { 1 << 20 } else { *random.pick(&[700, 1 << 20, 1 << 20, 1 << 20]) },
            breaker_failures: *random.pick(&[2, 5, 1000]),
            breaker_open_ms: *random.pick(&[200, 1000]),
        };
        // What is held for no reason shows only for as long as the record lives; what comes too late, once it is gone.
        let holds = random.chance(400);
        let ttl_s = (*random.pick(if holds { &[4, 60, 60, 60] } else { &[4, 4, 10, 60] })).max(lease / 1000 + 1);
        let (tenants, keys) = (random.between(1, 2) as u8, random.between(1, 4) as u8);
        let span_ms = *random.pick(&[5_000, 15_000, 30_000]);
        let (mut clients, mut waits) = (Random::of(seed, 2), Random::of(seed, 7));
        let mut shields = Random::of(seed, 9);
        let is_shielded = shields.chance(250);
        for fault in Fault::ALL.into_iter().filter(|fault| fault.is_of_shielding()) {
            if shields.chance(share) && is_shielded {
                faults = faults.with(fault);
            }
        }
        let shielding = Shielding {
            fields: *shields.pick(&[5, 5, 5, 5, 5, 4, 3, 0]),
            timeout_ms: *shields.pick(&[lease / 2, 2 * lease, 30_000, 30_000]),
        };
        let clients = (0..random.between(14, 30)).map(|_| Client {
            tenant: clients.between(1, tenants.into()) as u8,
            key: clients.between(1, keys.into()) as u8,
            payload: if clients.chance(750) { 1 } else { *clients.pick(&[2, 2, 2, 2, LARGE, TOO_LARGE]) },
            start_ms: clients.between(0, span_ms),
            tries: clients.between(1, 6),
            insists: clients.chance(500),
        });
        let clients = clients.collect();
        let observes = match random.between(0, 39) {
            0 => [true, true],
            1 => [true, false],
            2 => [false, true],
            _ => [false, false],
        };
        let mut later = Random::of(seed, 12);
        for fault in Fault::ALL.into_iter().filter(|fault| fault.came_later()) {
            if later.chance(share) {
                faults = faults.with(fault);
            }
        }
        let mut streams = Random::of(seed, 14);
        for fault in Fault::ALL.into_iter().filter(|fault| fault.is_of_streams()) {
            if streams.chance(share) && has_streams && embedded.is_none() {
                faults = faults.with(fault);
            }
        }
        let mut operators = Random::of(seed, 15);
        // A trial has names of its own.
        let has_operators = operators.chance(400) && observes == [false; 2];
        for fault in Fault::ALL.into_iter().filter(|fault| fault.is_of_operators()) {
            if operators.chance(700) && has_operators {
                faults = faults.with(fault);
            }
        }
        let (mut turns, mut issued, mut similar) = (Random::of(seed, 16), Random::of(seed, 17), Random::of(seed, 19));
        let issued_s = issued.chance(150).then(|| issued.between(1, ttl_s.clamp(2 * lease / 1000 + 1, 20)));
        // A trial has names of its own.
        let issued_s = issued_s.filter(|_| observes == [false; 2]);
        Plan {
            seed,
            logs_in: streams.chance(300),
            faults,
            strikes: *random.pick(&[20, 60, 150]),
            calm_ms: *random.pick(&[700, 2000, 6000]),
            // A table is its gateway's own: another would be another world.
            gateways: if embedded.is_some() { 1 } else { random.between(1, 3) as usize },
            workers: random.between(1, 2 + u64::from(embedded.is_some())) as usize,
            forwards: random.chance(150),
            holds,
            conflicts: random.chance(150),
            serializes_ms: turns.chance(250).then(|| turns.between(100, 3 * lease)),
            waits_ms: waits.chance(200).then(|| waits.between(100, 3 * lease)),
            issued_s,
            similar: (similar.chance(250) && issued_s.is_none() && observes == [false; 2])
                .then(|| ((*similar.pick(&[2_000, 10_000, 60_000])).min(1000 * ttl_s), similar.chance(500))),
            saves_after: later.chance(150),
            // A trial has names of its own.
            looks: later.chance(300) && observes == [false; 2],
            shields: is_shielded.then_some(shielding),
            bypasses: random.chance(500),
            observes,
            embedded,
            leases_ms: [lease, *random.pick(&[lease, 2 * lease])],
            ttl_s: ttl_s.max(2 * lease / 1000 + 1),
            limits,
            clients,
        }
    }
}
