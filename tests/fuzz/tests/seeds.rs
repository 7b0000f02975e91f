//! Every checked-in seed, through its target, with any compiler.
//!
//! Its one rule: what the fuzzer once found, or must not forget to look at, is looked at in every test run.

use std::fs;
use std::path::Path;

#[test]
fn every_seed_of_every_target_holds() {
    for (name, hold) in fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
        let seeds = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for seed in seeds.map(|entry| entry.unwrap().path()) {
            println!("{}", seed.display());
            hold(&fs::read(&seed).unwrap());
            count += 1;
        }
        assert!(count > 0, "{name} has no seeds");
    }
}
