//! The canonical form of JSON against RFC 8785, and against itself: what is the same stays the same, all else differs.
//!
//! Its one rule: expectations are the RFC's own samples, or laws.

use envoy_idempotency::json::{Found, Pointer, canonical, is_exact, parse};
use proptest::prelude::*;
use serde_json::{Map, Number, Value, json};

/// The canonical form as text, which it is.
fn form(value: &Value) -> String {
    String::from_utf8(canonical(value)).unwrap()
}

/// RFC 8785, section 3.2.2, whose result stands in section 3.2.4.
///
/// Its first number is 333333333.33333329 there: no double writes that, so a payload with it counts by its bytes.
#[test]
fn the_sample_of_the_rfc_has_the_form_of_the_rfc() {
    let sample = r#"{
      "numbers": [333333333.3333333, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"#;
    let wanted = r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#;
    assert_eq!(form(&parse(sample.as_bytes()).unwrap()), wanted);
    assert!(is_exact(sample.as_bytes()));
    assert!(!is_exact(b"333333333.33333329"));
}

/// RFC 8785, section 3.2.3.
#[test]
fn members_are_sorted_by_their_utf_16_code_units() {
    let sample = r#"{
      "\u20ac": "Euro Sign",
      "\r": "Carriage Return",
      "\ufb33": "Hebrew Letter Dalet With Dagesh",
      "1": "One",
      "\ud83d\ude00": "Emoji: Grinning Face",
      "\u0080": "Control",
      "\u00f6": "Latin Small Letter O With Diaeresis"
    }"#;
    let form = form(&parse(sample.as_bytes()).unwrap());
    let words = ["Carriage", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew"];
    let places: Vec<_> = words.iter().map(|word| form.find(word).unwrap()).collect();
    assert!(places.is_sorted(), "{form}");
}

/// RFC 8785, appendix B.
#[test]
fn numbers_are_written_as_ecmascript_writes_them() {
    for (bits, wanted) in [
        (0x0000000000000000, "0"),
        (0x8000000000000000, "0"),
        (0x0000000000000001, "5e-324"),
        (0x8000000000000001, "-5e-324"),
        (0x7fefffffffffffff, "1.7976931348623157e+308"),
        (0xffefffffffffffff, "-1.7976931348623157e+308"),
        (0x4340000000000000, "9007199254740992"),
        (0xc340000000000000, "-9007199254740992"),
        (0x4430000000000000, "295147905179352830000"),
        (0x44b52d02c7e14af5, "9.999999999999997e+22"),
        (0x44b52d02c7e14af6, "1e+23"),
        (0x44b52d02c7e14af7, "1.0000000000000001e+23"),
        (0x444b1ae4d6e2ef4e, "999999999999999700000"),
        (0x444b1ae4d6e2ef4f, "999999999999999900000"),
        (0x444b1ae4d6e2ef50, "1e+21"),
        (0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"),
        (0x3eb0c6f7a0b5ed8d, "0.000001"),
        (0x41b3de4355555553, "333333333.3333332"),
        (0x41b3de4355555554, "333333333.33333325"),
        (0x41b3de4355555555, "333333333.3333333"),
        (0x41b3de4355555556, "333333333.3333334"),
        (0x41b3de4355555557, "333333333.33333343"),
        (0xbecbf647612f3696, "-0.0000033333333333333333"),
        (0x43143ff3c1cb0959, "1424953923781206.2"),
    ] {
        assert_eq!(form(&Value::from(f64::from_bits(bits))), wanted, "{bits:016x}");
    }
    for whole in ["0", "7", "-120", "9007199254740991"] {
        assert_eq!(form(&parse(whole.as_bytes()).unwrap()), whole);
    }
}

#[test]
fn a_number_is_exact_when_a_double_gives_its_digits_back() {
    for exact in
        ["0", "-0.0", "0e5", "1.0", "10.50", "105e-1", "1E2", "0.1", "9007199254740992", "123456789012345", "1e21"]
    {
        assert!(is_exact(exact.as_bytes()), "{exact}");
    }
    for changed in ["9007199254740993", "0.1000000000000000055", "1e-400", "123456789012345678901234567890"] {
        assert!(!is_exact(changed.as_bytes()), "{changed}");
    }
    assert!(
        is_exact(br#"{"9007199254740993": "9007199254740993 \" \\", "a": [1, -2.5]}"#),
        "in strings nothing is a number"
    );
    assert!(!is_exact(br#"{"a\\": [1, {"b": 9007199254740993}]}"#));
}

#[test]
fn what_nobody_can_be_sure_of_is_not_read() {
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(parse(deep(127).as_bytes()).is_ok());
    for bad in [
        &deep(128),
        &deep(100_000),
        "",
        " ",
        "{} {}",
        r#"{"a": 1, "a": 1}"#,
        r#"{"\u0061": 1, "a": 1}"#,
        "1e999",
        "nul",
        r#""\ud800""#,
    ] {
        assert!(parse(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(20)]);
    }
    assert!(parse(b"\"\xff\"").is_err());
}

#[test]
fn pointers_find_and_take_away_what_they_name() {
    let pointer = |text| Pointer::parse(text).unwrap();
    let value = json!({ "a/b": { "m~n": [1, { "": 2 }] }, "0": 3 });
    for (text, found) in [("/a~1b/m~0n/0", json!(1)), ("/a~1b/m~0n/1/", json!(2)), ("/0", json!(3))] {
        assert_eq!(pointer(text).find(&value).values, [Some(&found)], "{text}");
    }
    for (text, left) in [
        ("/a~1b/m~0n/0", json!({ "a/b": { "m~n": [null, { "": 2 }] }, "0": 3 })),
        ("/a~1b", json!({ "0": 3 })),
        ("/a~1b/m~0n/1/", json!({ "a/b": { "m~n": [1, {}] }, "0": 3 })),
        ("/a~1b/m~0n/2", value.clone()),
        ("/a~1b/none/0", value.clone()),
        ("/0/0", value.clone()),
    ] {
        let mut changed = value.clone();
        pointer(text).remove_from(&mut changed);
        assert_eq!(changed, left, "{text}");
    }
    for bad in ["", "a", "/~", "/~2", "/a~"] {
        assert_eq!(Pointer::parse(bad), None, "{bad}");
    }
}

/// At a list `-` is the place behind its last element, where RFC 6901 (section 4) has nothing.
#[test]
fn a_dash_stands_for_each_element_of_a_list_and_for_itself_elsewhere() {
    let pointer = |text| Pointer::parse(text).unwrap();
    let value = json!([{ "id": "a", "x": [1, 2] }, { "id": null, "-": { "id": 3 } }, 7]);
    for (text, is_of_each, found) in [
        ("/-/id", true, vec![Some(json!("a")), Some(json!(null)), None]),
        ("/-/x/-", true, vec![Some(json!(1)), Some(json!(2)), None, None]),
        ("/0/x/-", true, vec![Some(json!(1)), Some(json!(2))]),
        ("/1/-/id", false, vec![Some(json!(3))]),
        ("/9/-/id", false, vec![None]),
        ("/0/x/-1", false, vec![None]),
    ] {
        let wanted = Found { is_of_each, values: found.iter().map(Option::as_ref).collect() };
        assert_eq!(pointer(text).find(&value), wanted, "{text}");
    }
    assert_eq!(pointer("/-/id").find(&json!([])), Found { is_of_each: true, values: vec![] });
    for (text, left) in [
        ("/-/id", json!([{ "x": [1, 2] }, { "-": { "id": 3 } }, 7])),
        ("/-/x/-", json!([{ "id": "a", "x": [null, null] }, { "id": null, "-": { "id": 3 } }, 7])),
        ("/1/-/id", json!([{ "id": "a", "x": [1, 2] }, { "id": null, "-": {} }, 7])),
        ("/-", json!([null, null, null])),
        ("/9/-", value.clone()),
    ] {
        let mut changed = value.clone();
        pointer(text).remove_from(&mut changed);
        assert_eq!(changed, left, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_and_white_space_do_not_change_the_form(value in json_value(), seed in any::<u64>()) {
        let mut spelled = String::new();
        spell(&value, &mut { seed }, &mut spelled);
        prop_assert_eq!(form(&parse(spelled.as_bytes()).unwrap()), form(&value));
        prop_assert!(is_exact(spelled.as_bytes()));
    }

    #[test]
    fn the_form_is_json_of_the_same_value_and_its_own_form(value in json_value()) {
        let once = form(&value);
        prop_assert_eq!(form(&parse(once.as_bytes()).unwrap()), once);
    }

    #[test]
    fn values_that_differ_have_forms_that_differ(a in json_value(), b in json_value()) {
        prop_assert_eq!(form(&a) == form(&b), a == b);
    }

    #[test]
    fn every_change_of_one_value_changes_the_form(value in json_value(), other in json_value(), at in any::<prop::sample::Index>()) {
        let mut places = Vec::new();
        collect(&value, String::new(), &mut places);
        let place = &places[at.index(places.len())];
        let mut changed = value.clone();
        *changed.pointer_mut(place).unwrap() = other;
        prop_assert_eq!(form(&changed) == form(&value), changed == value, "at {}", place);
    }
}

/// Values whose equality is that of what they say: whole numbers are small, others have a fraction.
fn json_value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        (-1000i64..1000).prop_map(Value::from),
        (-100_000i64..100_000).prop_map(|n| Value::from(Number::from_f64(n as f64 + 0.25).unwrap())),
    ];
    let text =
        prop_oneof![Just("a".to_owned()), Just("\u{fb33}".to_owned()), Just("\u{1f600}".to_owned()), any::<String>()];
    let leaf =
        prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), number, text.clone().prop_map(Value::from)];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// The value as somebody else might write it: members the other way round, blanks between, characters escaped.
fn spell(value: &Value, seed: &mut u64, out: &mut String) {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    let blank = ["", " ", "\n\t", "\r\n "][(*seed >> 62) as usize];
    let escapes = *seed & (1 << 40) != 0;
    let quoted = |text: &str| {
        let units = text.encode_utf16().map(|unit| format!("\\u{unit:04X}"));
        if !escapes { Value::from(text).to_string() } else { format!("\"{}\"", units.collect::<String>()) }
    };
    out.push_str(blank);
    match value {
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                spell(item, seed, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (index, (name, member)) in members.iter().rev().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                out.push_str(&quoted(name));
                out.push_str(blank);
                out.push(':');
                spell(member, seed, out);
            }
            out.push('}');
        }
        Value::String(text) => out.push_str(&quoted(text)),
        Value::Number(number) if number.is_f64() => out.push_str(&format!("{number}00e0")),
        plain => out.push_str(&plain.to_string()),
    }
    out.push_str(blank);
}

/// The pointer of every value there is.
fn collect(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| collect(item, format!("{at}/{index}"), places));
        }
        Value::Object(members) => members.iter().for_each(|(name, member)| {
            collect(member, format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), places);
        }),
        _ => {}
    }
    places.push(at);
}
