//! Records of the embedded store, and whether they stay while no listener has the filter.

use serde_json::{Value, json};

use crate::{Run, check, check_changed, plugin, set_document, shipped};

/// `envoy/local.yaml` with its listener discovered, changed.
fn discovered(change: impl FnOnce(&mut Value)) -> Run {
    let mut tree = shipped("local.yaml");
    change(&mut tree);
    let mut listener = tree["static_resources"]["listeners"].as_array_mut().unwrap().remove(0);
    listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
    tree["dynamic_resources"] = json!({ "lds_config": { "ads": {} } });
    check(&format!("# A file of Envoy's\n---\n{tree}\n---\n{}", json!({ "resources": [listener] })))
}

fn advice(run: &Run) -> Vec<&str> {
    run.out.lines().filter(|line| line.starts_with("Advice: ")).collect()
}

fn without_service(tree: &mut Value) {
    tree.as_object_mut().unwrap().remove("bootstrap_extensions");
}

#[test]
fn a_service_of_the_same_vm_id_keeps_the_records() {
    let run = discovered(|_| ());
    assert_eq!((advice(&run), run.warnings()), (vec![], vec![]));
}

#[test]
fn where_listeners_are_discovered_and_no_service_keeps_the_records_there_is_advice() {
    let told = "Advice: listeners are discovered (lds_config). Once the last with this vm_id has been removed its \
                records are gone; a service in bootstrap_extensions keeps them: see envoy/local.yaml.";
    assert_eq!(advice(&discovered(without_service)), [told]);
}

#[test]
fn what_never_goes_and_what_is_in_redis_need_no_service() {
    assert_eq!(advice(&check_changed("local.yaml", without_service)), [""; 0]);
    let static_beside_discovered = check_changed("local.yaml", |tree| {
        without_service(tree);
        tree["dynamic_resources"] = json!({ "lds_config": { "ads": {} } });
    });
    assert_eq!(advice(&static_beside_discovered), [""; 0]);
    let in_redis = discovered(|tree| {
        without_service(tree);
        set_document(tree, r#"{"store": {"type": "redis", "cluster": "payments"}}"#);
    });
    assert_eq!(advice(&in_redis), [""; 0]);
}

#[test]
fn a_service_of_another_vm_id_is_warned_of() {
    for run in [check_changed as fn(&str, fn(&mut Value)) -> Run, |_, change| discovered(change)] {
        let run = run("local.yaml", |tree| plugin(tree)["vm_config"]["vm_id"] = json!("payments"));
        assert_eq!(
            run.warnings(),
            ["the records are shared under vm_id payments, and no service of bootstrap_extensions keeps those: \
              idempotency (vm_id idempotency) keeps others; give it the vm_config of this filter"]
        );
    }
}
