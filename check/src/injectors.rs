//! Filters that write the gateway's own credentials.
//!
//! Its one rule: a credential of the gateway's says nothing of the client.
//! It does not know what was there before.

use serde_json::Value;

use crate::deeds::{Act, Deed};
use crate::lint::{kind, name};
use crate::locate::typed;
use crate::scope::Spot;

/// What an injector does, given what the layers of the way say and to which cluster the way leads.
pub fn of_filter(filter: &Value, given: &[(&str, &Value)], cluster: Option<&Value>) -> Vec<Act> {
    let config = typed(&filter["typed_config"]).map_or(&Value::Null, |(_, config)| config);
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).unwrap_or("authorization").to_owned();
    let (deed, header) = match kind(filter) {
        "aws_request_signing" => {
            let config = given.first().map_or(config, |(_, here)| &here["aws_request_signing"]);
            // Then the signature is in the query string.
            if config["query_string"].is_object() {
                return Vec::new();
            }
            (Deed::WritesAnew, text(&Value::Null))
        }
        "credential_injector" => {
            let credential = typed(&config["credential"]["typed_config"]).map_or(&Value::Null, |(_, config)| config);
            let deed = if config["overwrite"] == true { Deed::WritesOneForAll } else { Deed::WritesOneForRest };
            (deed, text(&credential["header"]))
        }
        "gcp_authn" => {
            // It gets a token only for a cluster that names its audience.
            let metadata = cluster.map(|cluster| &cluster["metadata"]["typed_filter_metadata"][AUDIENCE]);
            if !metadata.is_some_and(Value::is_object) {
                return Vec::new();
            }
            (Deed::WritesOneForAll, text(&config["token_header"]["name"]))
        }
        _ => return Vec::new(),
    };
    let by = name(filter);
    let mend = format!("put {by} after this filter, or let scope.caller read what clients show elsewhere");
    vec![Act { mend, ..Act::of(deed, Spot::header(&header), by) }]
}

const AUDIENCE: &str = "envoy.filters.http.gcp_authn";
