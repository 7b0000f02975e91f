//! Why a store could not do what it was asked, and what may be made of that.
//!
//! Its one rule: a failure is never read as "free".
//! It does not know what was asked.

/// Why the store could not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The breaker is open: the store has failed too often in a row.
    Breaker,
    /// Too many workers changed the same place at once.
    Contention,
    /// What is stored is not a record.
    Corrupt,
    /// Too many bytes of bodies are held in this worker.
    Overloaded,
    /// The table is full of records that must not go.
    Full,
    /// What came back is not an answer at all.
    Garbage,
    /// The host refused a call.
    Host,
    /// `allow_on_headers_stop_iteration` is missing from the filter's configuration.
    MissingFlag,
    /// What came back answers another question.
    Nonce,
    /// Too many operations wait.
    Queue,
    /// Redis refused a command.
    Redis(RedisError),
    /// A claim was answered as released although it had not been.
    Stale,
    /// No answer came in time.
    Timeout,
    /// The store cannot be reached.
    Transport,
}

/// Why Redis refuses a command: the first word of its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RedisError {
    /// The slot is being moved, and the key is at the other node.
    Ask,
    /// Another script has run for too long.
    Busy,
    /// A part of the cluster is missing.
    ClusterDown,
    /// The keys of one call live in different slots of a cluster: `batching` must be false.
    CrossSlot,
    /// Nothing more exact: a script that cannot run, a command that is not known.
    Err,
    /// It is reading its data set.
    Loading,
    /// A replica has lost its primary.
    MasterDown,
    /// It cannot persist, and its configuration forbids writes then.
    Misconf,
    /// The key lives at another node of a cluster.
    Moved,
    /// The client has not logged in.
    NoAuth,
    /// The user that has logged in may not do this.
    NoPerm,
    /// Too few replicas are there to take a write.
    NoReplicas,
    /// It does not keep the script.
    NoScript,
    /// No memory is left, and nothing may go.
    Oom,
    /// A word that is not one of these.
    Other,
    /// It is a replica.
    ReadOnly,
    /// The keys of one call are being moved.
    TryAgain,
    /// The user name and the password do not fit.
    WrongPass,
    /// The key holds something that is no record.
    WrongType,
}

impl RedisError {
    /// All of them with their words, in lower case.
    const ALL: [(RedisError, &'static str); 19] = [
        (RedisError::Ask, "ask"),
        (RedisError::Busy, "busy"),
        (RedisError::ClusterDown, "clusterdown"),
        (RedisError::CrossSlot, "crossslot"),
        (RedisError::Err, "err"),
        (RedisError::Loading, "loading"),
        (RedisError::MasterDown, "masterdown"),
        (RedisError::Misconf, "misconf"),
        (RedisError::Moved, "moved"),
        (RedisError::NoAuth, "noauth"),
        (RedisError::NoPerm, "noperm"),
        (RedisError::NoReplicas, "noreplicas"),
        (RedisError::NoScript, "noscript"),
        (RedisError::Oom, "oom"),
        (RedisError::Other, "other"),
        (RedisError::ReadOnly, "readonly"),
        (RedisError::TryAgain, "tryagain"),
        (RedisError::WrongPass, "wrongpass"),
        (RedisError::WrongType, "wrongtype"),
    ];

    /// The error whose message begins with this word.
    pub fn of(word: &[u8]) -> Self {
        let known = Self::ALL.into_iter().find(|(_, known)| word.eq_ignore_ascii_case(known.as_bytes()));
        known.map_or(RedisError::Other, |(error, _)| error)
    }

    fn as_str(self) -> &'static str {
        let known = Self::ALL.into_iter().find(|(error, _)| *error == self);
        known.map_or("other", |(_, word)| word)
    }
}

impl Failure {
    /// All of them.
    pub fn all() -> Vec<Failure> {
        let plain = [
            Failure::Breaker,
            Failure::Contention,
            Failure::Corrupt,
            Failure::Overloaded,
            Failure::Full,
            Failure::Garbage,
            Failure::Host,
            Failure::MissingFlag,
            Failure::Nonce,
            Failure::Queue,
            Failure::Stale,
            Failure::Timeout,
            Failure::Transport,
        ];
        plain.into_iter().chain(RedisError::ALL.map(|(error, _)| Failure::Redis(error))).collect()
    }

    /// Whether the store may have done what it was asked all the same.
    pub fn is_doubtful(self) -> bool {
        match self {
            // A proxy in front of Redis may say so too, about a call that went through.
            Failure::Redis(error) => matches!(error, RedisError::Err | RedisError::Other),
            Failure::Nonce => true,
            failure => failure.is_transport(),
        }
    }

    /// Whether it is the store that fails, and not a worker or the host in front of it, nor one record alone.
    pub fn is_of_the_store(self) -> bool {
        !self.is_unreadable() && !matches!(self, Failure::MissingFlag | Failure::Overloaded)
    }

    /// Whether something is stored under the name that cannot be read; an operation may have run.
    pub fn is_unreadable(self) -> bool {
        matches!(self, Failure::Corrupt | Failure::Redis(RedisError::WrongType))
    }

    /// Whether no word of the store's came back at all.
    pub fn is_transport(self) -> bool {
        matches!(self, Failure::Garbage | Failure::Timeout | Failure::Transport)
    }

    /// As it stands in metric names and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Failure::Breaker => "breaker",
            Failure::Contention => "contention",
            Failure::Corrupt => "corrupt",
            Failure::Overloaded => "overloaded",
            Failure::Full => "full",
            Failure::Garbage => "garbage",
            Failure::Host => "host",
            Failure::MissingFlag => "missing_flag",
            Failure::Nonce => "nonce",
            Failure::Queue => "queue",
            Failure::Redis(error) => error.as_str(),
            Failure::Stale => "stale",
            Failure::Timeout => "timeout",
            Failure::Transport => "transport",
        }
    }
}
