//! A node in a temporary folder: the real parts that workers share, without a daemon round them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::artifact::{ArtifactSettings, Fetcher, Keyring};
use crate::board::Board;
use crate::clock::Clock;
use crate::fabric::Fabric;
use crate::image::ImageStore;
use crate::outside::Gateway;
use crate::outside::names::{NameServers, SystemNames};
use crate::outside::test_net::TestNet;
use crate::pod::context::PodAddresses;
use crate::pod::environment::Allocatable;
use crate::pod::host_port::Shelf;
use crate::pod::networks::NetworkBook;
use crate::pod::usage::UsageBook;
use crate::pod::{Keeper, NodeContext, NodeFacts};
use crate::runtime::{CompileMode, Runtime, RuntimeConfig};
use crate::secret::NodeKey;
use crate::spec::{Container, ImageRef};
use crate::volume::{HostPathPolicy, VolumeRoot};

use super::pods;

/// What the node has.
const ALL: Allocatable =
    Allocatable { cpu_millis: 1000, memory_bytes: 1 << 30, ephemeral_storage_bytes: 0 };

/// A node whose folder goes with it.
#[derive(Debug)]
pub struct TestNode {
    pub dir: TempDir,
    pub context: Arc<NodeContext>,
}

impl TestNode {
    /// A node without pods. Compiled code is kept beside the test program, from one test run to the next.
    #[must_use]
    pub fn new(keeper: Arc<dyn Keeper>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();
        let mut config = RuntimeConfig::new(program.parent().unwrap().join("node-tests-cache"));
        config.compile = CompileMode::InProcess;
        config.guest_threads = Some(2);
        let clock = Clock::start();
        let (images, _damage) = ImageStore::open(&dir.path().join("images")).unwrap();
        let images = Arc::new(images);
        let (settings, keyring) = (ArtifactSettings::default(), Keyring::default());
        let fetcher = Fetcher::new(Arc::clone(&images), settings, keyring, clock);
        let context = NodeContext {
            clock,
            runtime: Runtime::new(config).unwrap(),
            images,
            fetcher,
            secrets: Some(NodeKey::generate().decryptor()),
            volumes: VolumeRoot::open(&dir.path().join("volumes"), None).unwrap(),
            host_paths: HostPathPolicy { own: vec![], allow: vec![] },
            board: Board::new(1, clock.now()),
            fabric: Fabric::new(clock),
            node: NodeFacts {
                name: "gw-test".to_owned(),
                host_ips: vec![],
                total: ALL,
                allocatable: ALL,
                pods_max: 110,
            },
            addresses: PodAddresses::default(),
            usage: UsageBook::default(),
            gateway: Gateway::new(
                Arc::new(TestNet::default()),
                Arc::new(SystemNames::new(NameServers::At(([127, 0, 0, 1], 9).into()))),
                tokio::runtime::Handle::current(),
                clock,
                256,
            ),
            networks: NetworkBook::default(),
            faults: None,
            shelf: Shelf::default(),
            keeper,
        };
        Self { dir, context: Arc::new(context) }
    }
}

/// A regular container that runs a built guest.
#[must_use]
pub fn guest(container: &str, name: &str, args: &[&str]) -> Container {
    let file = format!("wasm-examples/built/{name}.wasm");
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let mut guest = pods::regular(container);
    let text = format!("file:{}", path.display());
    guest.image = ImageRef::File { text: text.into(), path: Arc::new(path) };
    guest.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    guest
}

/// Labels of one pair.
#[must_use]
pub fn labels(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}
