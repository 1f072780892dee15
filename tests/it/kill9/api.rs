//! Changes over the API, with exact knowledge of which were acknowledged.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::Dice;

const PODS: [&str; 3] = ["api-0", "api-1", "api-2"];
const MAPS: [&str; 3] = ["map-0", "map-1", "map-2"];

/// What must be true of one object.
#[derive(Clone, Debug, PartialEq)]
enum Known {
    /// The last answer says so: this content, or nothing.
    Surely(Option<String>),
    /// A change was cut off: one or the other, whole.
    Either(Option<String>, Option<String>),
}

/// A content that was never told: the UID of a pod whose creation got no answer.
const UNTOLD: &str = "?";

pub(super) struct Api {
    socket: PathBuf,
    objects: BTreeMap<&'static str, Known>,
    /// What was asked and answered, for whoever has to find out.
    history: Vec<String>,
    pub(super) anchors: Vec<(&'static str, String)>,
    pub(super) acknowledged: u64,
    pub(super) cut_off: u64,
    serial: u64,
}

/// An answer, if one came.
type Answer = Option<(u16, Value)>;

impl Api {
    pub(super) fn new(socket: PathBuf) -> Self {
        let names = PODS.iter().chain(&MAPS);
        let objects = names.map(|name| (*name, Known::Surely(None))).collect();
        Self {
            socket,
            objects,
            history: vec![],
            anchors: vec![],
            acknowledged: 0,
            cut_off: 0,
            serial: 0,
        }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: podling\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        // Half of a body is no answer.
        Some((status, serde_json::from_str(body).ok()?))
    }

    /// Every pod, sorted by name; `None` while nobody answers.
    pub(super) fn pods(&self) -> Option<Vec<Value>> {
        let (status, mut list) = self.ask("GET", "/api/v1/namespaces/default/pods", None)?;
        assert_eq!(status, 200, "{list}");
        Some(std::mem::take(list["items"].as_array_mut()?))
    }

    pub(super) fn create_anchor(&mut self) {
        let (status, body) = self.ask("POST", PODS_PATH, Some(&pod("anchor-api"))).unwrap();
        assert_eq!(status, 201, "{body}");
    }

    /// One change.
    pub(super) fn act(&mut self, dice: &mut Dice) {
        let all = self.objects.len() as u64;
        let nth = usize::try_from(dice.below(all)).unwrap();
        let (name, known) = self.objects.iter().nth(nth).map(|(n, k)| (*n, k.clone())).unwrap();
        // What is not known is looked at first, by the next start's check.
        let Known::Surely(before) = known else { return };
        if PODS.contains(&name) {
            self.change_pod(name, before)
        } else {
            self.change_map(name, before, dice)
        }
    }

    fn change_pod(&mut self, name: &'static str, before: Option<String>) {
        if before.is_none() {
            let answer = self.ask("POST", PODS_PATH, Some(&pod(name)));
            let uid = |body: &Value| Some(body["metadata"]["uid"].as_str().unwrap().to_owned());
            self.learn(name, before, Some(UNTOLD.to_owned()), answer, uid);
        } else {
            let path = format!("{PODS_PATH}/{name}?gracePeriodSeconds=0");
            let answer = self.ask("DELETE", &path, None);
            self.learn(name, before, None, answer, |_| None);
        }
    }

    fn change_map(&mut self, name: &'static str, before: Option<String>, dice: &mut Dice) {
        self.serial += 1;
        let content =
            format!("{}-{}", self.serial, "x".repeat(usize::try_from(dice.below(6000)).unwrap()));
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": content}});
        let path = format!("{MAPS_PATH}/{name}");
        let answer = match &before {
            None => self.ask("POST", MAPS_PATH, Some(&map)),
            Some(_) if dice.below(3) == 0 => {
                let answer = self.ask("DELETE", &path, None);
                return self.learn(name, before, None, answer, |_| None);
            }
            Some(_) => self.ask("PUT", &path, Some(&map)),
        };
        self.learn(name, before, Some(content.clone()), answer, |_| Some(content));
    }

    /// Notes what an answer, or the lack of one, says.
    fn learn(
        &mut self,
        name: &'static str,
        before: Option<String>,
        wanted: Option<String>,
        answer: Answer,
        is: impl FnOnce(&Value) -> Option<String>,
    ) {
        let status = answer.as_ref().map(|(status, _)| *status);
        self.history.push(format!("{name}: {:.40?} to {:.40?}: {status:?}", before, wanted));
        let known = match answer {
            Some((200..=299, body)) => {
                self.acknowledged += 1;
                Known::Surely(is(&body))
            }
            // The earlier pod of that name may still be ending.
            Some((409, _)) => Known::Surely(before),
            Some((status, body)) => panic!("{name}: {status} {body}"),
            None => {
                self.cut_off += 1;
                Known::Either(before, wanted)
            }
        };
        self.objects.insert(name, known);
    }

    /// Compares what a fresh daemon shows with what earlier ones have said.
    pub(super) fn check(&mut self, pods: &[Value]) {
        let (status, maps) = self.ask("GET", MAPS_PATH, None).expect("an answer");
        assert_eq!(status, 200, "{maps}");
        let find = |list: &[Value], name: &str| {
            list.iter().find(|object| object["metadata"]["name"] == *name).cloned()
        };
        for (name, known) in &mut self.objects {
            let found = if PODS.contains(name) {
                // One that is ending was deleted.
                let here =
                    find(pods, name).filter(|p| p["metadata"]["deletionTimestamp"].is_null());
                here.map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned())
            } else {
                let here = find(maps["items"].as_array().unwrap(), name);
                here.map(|map| map["data"]["v"].as_str().unwrap().to_owned())
            };
            let is = |wanted: &Option<String>| {
                *wanted == found || (wanted.as_deref() == Some(UNTOLD) && found.is_some())
            };
            let fits = match known {
                Known::Surely(wanted) => is(wanted),
                Known::Either(before, wanted) => is(before) || is(wanted),
            };
            let cut = |text: &Option<String>| {
                text.as_ref().map(|t| t.chars().take(40).collect::<String>())
            };
            assert!(
                fits,
                "{name} is {:?}, and should be {known:.120?}: {:#?}",
                cut(&found),
                &self.history[self.history.len().saturating_sub(30)..]
            );
            *known = Known::Surely(found);
        }
        for (name, uid) in &self.anchors {
            let pod = find(pods, name).unwrap_or_else(|| panic!("{name} is gone"));
            assert_eq!(pod["metadata"]["uid"], **uid, "{name}");
            assert!(pod["metadata"]["deletionTimestamp"].is_null(), "{name} is ending");
        }
    }
}

const PODS_PATH: &str = "/api/v1/namespaces/default/pods";
const MAPS_PATH: &str = "/api/v1/namespaces/default/configmaps";

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "counter:test"}]}})
}
