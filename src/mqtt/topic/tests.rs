#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use proptest::prelude::*;

use super::*;

fn topics() -> Topics {
    Topics::new("pods/v1", "acme", "gw-17.north").unwrap()
}

#[test]
fn what_is_built_reads_back() {
    let topics = topics();
    let key = PodKey::new("default", "web");
    let group = Scope::Group("line-a".into());
    let pod = |scope: &Scope| (topics.pod(scope, &key).unwrap(), scope.clone());
    for (topic, scope) in [pod(&Scope::Node), pod(&group)] {
        let key = key.clone();
        assert_eq!(topics.read(&topic), Some(Inbound::Pod { scope, key }));
    }
    let command = topics.command("logs", "c-1").unwrap();
    let expected = Inbound::Command { verb: "logs", id: "c-1" };
    assert_eq!(topics.read(&command), Some(expected));
    let block = topics.block("4021").unwrap();
    assert_eq!(topics.read(&block), Some(Inbound::Block { transfer: "4021" }));
    assert_eq!(topics.read(&topics.index()), Some(Inbound::Index));
    assert_eq!(topics.read(&topics.tree().trust()), Some(Inbound::Trust));
    assert_eq!(topics.read(&topics.online()), Some(Inbound::Online));
    let said = [
        (topics.online(), Outbound::Online),
        (topics.node_status(), Outbound::Node),
        (topics.pod_status(&key).unwrap(), Outbound::Pod { key }),
        (topics.reply("c-1").unwrap(), Outbound::Reply { id: "c-1" }),
        (topics.get(), Outbound::Get),
    ];
    for (topic, outbound) in said {
        assert_eq!(topics.tree().read_outbound(&topic), Some(("gw-17.north", outbound)));
    }
}

#[test]
fn what_is_not_ours_is_none() {
    let long = format!("pods/v1/acme/n/gw-17.north/pod/default/{}", "a".repeat(64));
    for topic in [
        "",
        "/",
        "pods/v1",
        "pods/v1/acme",
        "pods/v1/other/trust",
        "pods/v2/acme/trust",
        "pods/v1/acme/trust/more",
        "pods/v1acme/trust",
        "pods/v1/acme/n/gw-18/pod/default/web",
        "pods/v1/acme/n/gw-17.north",
        "pods/v1/acme/n/gw-17.north/pod/default",
        "pods/v1/acme/n/gw-17.north/pod//web",
        "pods/v1/acme/n/gw-17.north/pod/default/web/more",
        // Its record would stand under the name of default/more.web's.
        "pods/v1/acme/n/gw-17.north/pod/default.more/web",
        "pods/v1/acme/g/line-a/pod/default.more/web",
        "pods/v1/acme/n/gw-17.north/pod/default/Web",
        "pods/v1/acme/n/gw-17.north/pod/default/../web",
        "pods/v1/acme/n/gw-17.north/pod/de+ault/#",
        "pods/v1/acme/n/gw-17.north/pod/default/w\u{0}b",
        "pods/v1/acme/s/gw-17.north/node",
        "$SYS/broker/version",
        &long,
    ] {
        assert_eq!(topics().read(topic), None, "{topic}");
    }
}

#[test]
fn levels_and_roots_are_checked() {
    let longest = "a".repeat(63);
    for good in ["a", "gw-17", "gw.north.example", "0", longest.as_str()] {
        assert_eq!(check_level("x", good), Ok(()), "{good}");
    }
    let too_long = "a".repeat(64);
    for bad in ["", "-a", "a-", "a..b", ".a", "a.", "A", "a_b", "a/b", "+", "#", "ü", &too_long] {
        assert!(check_level("x", bad).is_err(), "{bad}");
    }
    for (root, good) in [
        ("pods/v1", true),
        ("Pods_1", true),
        ("a/b/c", false),
        ("", false),
        ("a//b", false),
        ("+/x", false),
    ] {
        assert_eq!(Tree::new(root, "acme").is_ok(), good, "{root}");
    }
}

#[test]
fn a_pod_whose_topic_is_too_long_is_refused_both_ways() {
    let (node, tenant) = ("n".repeat(63), "t".repeat(63));
    let topics = Topics::new("pods/v1", &tenant, &node).unwrap();
    let key = PodKey::new(&"s".repeat(63), &"p".repeat(63));
    assert!(matches!(topics.pod(&Scope::Node, &key), Err(TopicError::TooLong(_))));
    // A group with a short name has room where the node's own status has none.
    let group = format!("pods/v1/{tenant}/g/g/pod/{}/{}", key.namespace, key.name);
    assert!(group.len() <= TOPIC_BYTES_MAX);
    assert_eq!(topics.read(&group), None);
}

#[test]
fn groups_are_few_and_each_once() {
    let named = |names: &[&str]| -> Vec<Arc<str>> { names.iter().map(|n| (*n).into()).collect() };
    assert_eq!(check_groups(&named(&["a", "b"])), Ok(()));
    let twice = check_groups(&named(&["a", "b", "a"]));
    assert_eq!(twice, Err(TopicError::SameGroup("a".to_owned())));
    let many: Vec<Arc<str>> = (0..8).map(|n| format!("g{n}").into()).collect();
    assert_eq!(check_groups(&many), Err(TopicError::TooManyGroups(8)));
    assert!(check_groups(&named(&["#"])).is_err());
}

#[test]
fn a_scope_reads_back_from_a_status() {
    for scope in [Scope::Node, Scope::Group("line-a".into())] {
        let json = serde_json::to_string(&scope).unwrap();
        assert_eq!(serde_json::from_str::<Scope>(&json).unwrap(), scope);
    }
    for wrong in ["\"group/\"", "\"group/A\"", "\"nodes\"", "3"] {
        assert!(serde_json::from_str::<Scope>(wrong).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn rubbish_is_never_fatal(topic in ".{0,300}") {
        let _ = topics().read(&topic); // That there is an answer is the point.
        let _ = topics().tree().read_outbound(&topic);
    }

    #[test]
    fn near_misses_are_read_as_what_they_are(
        levels in proptest::collection::vec("[a-z.-]{0,4}|pod|cmd|n|s|g|gw-17.north", 0..9),
    ) {
        let topic = format!("pods/v1/acme/{}", levels.join("/"));
        if let Some(Inbound::Pod { scope, key }) = topics().read(&topic) {
            prop_assert_eq!(topics().pod(&scope, &key), Ok(topic));
        }
    }
}
