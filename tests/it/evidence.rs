//! Who answered a request, and whether it may have run, by Envoy's account of it.
//!
//! Its one rule: each case takes away one piece of an account that proves something, and then it proves nothing.
//! It does not know which accounts real Envoys give: `tests/e2e/evidence.rs` does.

use envoy_idempotency::config::Ending;
use envoy_idempotency::evidence::{Origin, Source, flags};

const ROUTER: Option<&[u8]> = Some(b"envoy.filters.http.router");

fn said(details: &'static str, flag: &str) -> Origin<'static> {
    let flags = flags(flag.as_bytes());
    Origin { details: details.as_bytes(), attempts: Some(1), flags, sent: None, owner: ROUTER }
}

const NEVER_SENT: [(&str, &str); 10] = [
    ("cluster_not_found", "NC"),
    ("drop_overload", "DO"),
    ("maintenance_mode", "UO"),
    ("no_healthy_upstream", "UH"),
    ("route_not_found", "NR"),
    ("unconditional_drop_overload", "UDO"),
    ("upstream_reset_before_response_started{connection_timeout}", "UF"),
    ("upstream_reset_before_response_started{local_connection_failure}", "UF"),
    ("upstream_reset_before_response_started{overflow}", "UO"),
    ("upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_refused}", "UF"),
];

#[test]
fn that_nothing_was_sent_wants_details_flag_first_try_and_no_byte() {
    for (details, flag) in NEVER_SENT {
        let whole = said(details, flag);
        for sent in [None, Some(0)] {
            assert_eq!(Origin { sent, ..whole }.source(), Source::Host(Ending::Unsent), "{details}");
        }
        assert_eq!(Origin { attempts: Some(0), ..whole }.source(), Source::Host(Ending::Unsent), "{details}");
        let doubtful = [
            said(details, "-"),
            said(details, "UC,URX"),
            Origin { attempts: None, ..whole },
            Origin { attempts: Some(2), ..whole },
            Origin { sent: Some(1), ..whole },
        ];
        let kept = if details.starts_with("upstream_reset") { Source::Host(Ending::Reset) } else { Source::Unclear };
        for origin in doubtful {
            assert_eq!(origin.source(), kept, "{origin:?}");
        }
    }
}

#[test]
fn a_stream_that_was_refused_at_the_first_try_was_not_processed_however_much_of_it_was_sent() {
    let refused = said("upstream_reset_before_response_started{remote_refused_stream_reset}", "UR");
    assert_eq!(Origin { sent: Some(300), ..refused }.source(), Source::Host(Ending::Unsent));
    assert_eq!(Origin { attempts: Some(2), ..refused }.source(), Source::Host(Ending::Reset));
    let reset = said("upstream_reset_before_response_started{remote_reset}", "UR");
    assert_eq!(reset.source(), Source::Host(Ending::Reset));
}

#[test]
fn no_attempt_alone_proves_nothing() {
    for details in ["", "downstream_remote_disconnect", "http2.remote_reset", "request_payload_too_large"] {
        let origin = Origin { details: details.as_bytes(), attempts: Some(0), ..Origin::default() };
        assert!(![Source::Host(Ending::Unsent), Source::Upstream].contains(&origin.source()), "{details}");
    }
}

#[test]
fn a_filter_behind_is_known_by_its_name_and_not_by_its_words() {
    let by = |owner: &'static str, details: &'static str, attempts| {
        let owner = Some(owner.as_bytes());
        Origin { details: details.as_bytes(), attempts, owner, ..Origin::default() }.source()
    };
    for details in ["lua_response", "", "ext_authz_denied", "no_healthy_upstream"] {
        assert_eq!(by("mine", details, Some(0)), Source::Local { attempted: false }, "{details}");
        for attempts in [None, Some(1)] {
            assert_eq!(by("mine", details, attempts), Source::Local { attempted: true }, "{details}");
        }
        assert_eq!(by("envoy.filters.http.router", details, Some(0)), Source::Unclear, "{details}");
    }
    // Words of Envoy's own that promise nothing count whoever has them: they leave the key in doubt.
    assert_eq!(by("mine", "response_timeout", Some(0)), Source::Host(Ending::Timeout));
    // The router, called otherwise in the chain.
    assert_eq!(by("way-out", "direct_response", Some(0)), Source::Route);
    assert_eq!(
        Origin { owner: Some(b"way-out"), ..said("cluster_not_found", "NC") }.source(),
        Source::Host(Ending::Unsent)
    );
}
