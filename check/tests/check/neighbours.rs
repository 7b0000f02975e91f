//! What the checker says of each neighbour that the end-to-end tests stand beside the filter.
//!
//! Its one rule: a row that says nothing hears nothing; where a row has words they are the checker's, and an error where
//! the promise cannot hold.

use harness::neighbours::{Place, Truth, neighbours};
use serde_json::json;

use crate::{check_changed, filters};

#[test]
fn each_neighbour_is_told_of_as_its_row_says() {
    for row in neighbours() {
        for (index, Place { truth, told }) in [(0, row.front), (1, row.behind)] {
            let filter = json!({ "name": row.name, "typed_config": row.config });
            let run = check_changed("local.yaml", |tree| filters(tree).insert(index, filter));
            let said: Vec<_> =
                run.out.lines().filter(|line| line.contains(": error: ") || line.contains(": warning: ")).collect();
            let place = if index == 0 { "in front" } else { "behind" };
            match told {
                Some(told) => {
                    let kind = if truth == Truth::Broken { ": error: " } else { ": " };
                    let is_said = said.iter().any(|line| line.contains(kind) && line.contains(told));
                    assert!(is_said, "{} {place}: {said:#?}", row.name);
                }
                None => assert_eq!(said, [""; 0], "{} {place}", row.name),
            }
        }
    }
}
