//! Differences to what is here.

use crate::artifact::delta::make;

use super::*;

struct Bench {
    node: Node,
    registry: Registry,
    new: Vec<u8>,
    patch: Vec<u8>,
    way: Delta,
    full: String,
}

impl Bench {
    /// A node with a module, and a server with a newer one and the difference.
    async fn new() -> Self {
        let (registry, node) = (Registry::start().await, Node::new());
        let old = module(1, 900_000);
        let mut new = old.clone();
        for at in (100_000..500_000).step_by(5000) {
            new[at] ^= 0x55;
        }
        let base = registry.put_file("/old.wasm", &old);
        came(node.fetch(&old, &[&base]).await, &old);
        let patch = make(&old, &new).unwrap();
        assert!(patch.len() < 5000, "{}", patch.len());
        let sources = vec![Source::parse(&registry.put_file("/patch", &patch)).unwrap()];
        let (digest, size) = (digest_of(&patch), patch.len() as u64);
        let way = Delta { base: digest_of(&old), digest, size, sources };
        let full = registry.put_file("/new.wasm", &new);
        registry.log();
        Self { node, registry, new, patch, way, full }
    }

    async fn fetch(&self) -> Result<Fetched, FetchError> {
        let want = Want { deltas: vec![self.way.clone()], ..want(&self.new, &[&self.full]) };
        let limit = Duration::from_secs(120);
        tokio::time::timeout(limit, self.node.fetcher.fetch(want, &|_| {})).await.unwrap()
    }
}

#[tokio::test]
async fn a_difference_is_fetched_instead_of_the_whole_and_is_gone_afterwards() {
    let bench = Bench::new().await;
    came(bench.fetch().await, &bench.new);
    assert_eq!(bench.registry.log(), ["GET /patch"]);
    assert_eq!(bench.node.fetcher.store().path_of(&bench.way.digest).unwrap(), None);
}

#[tokio::test]
async fn without_its_base_a_difference_is_not_fetched() {
    let mut bench = Bench::new().await;
    bench.way.base = Digest::new([9; 32]);
    came(bench.fetch().await, &bench.new);
    assert_eq!(bench.registry.log(), ["GET /new.wasm"]);
}

#[tokio::test]
async fn a_difference_that_cannot_be_had_or_makes_something_else_is_passed_over() {
    let bench = Bench::new().await;
    bench.registry.plan([Fault::Status(404, "")]);
    came(bench.fetch().await, &bench.new);
    assert_eq!(bench.registry.log(), ["GET /patch", "GET /new.wasm"]);

    // The difference is what its digest says, and makes another module: the last byte but two is a literal of it.
    let mut bench = Bench::new().await;
    let mut lies = bench.patch.clone();
    let at = lies.iter().rposition(|byte| *byte == 0x55 || *byte == 0xab).unwrap();
    lies[at] ^= 1;
    let sources = vec![Source::parse(&bench.registry.put_file("/lies", &lies)).unwrap()];
    bench.way = Delta { digest: digest_of(&lies), sources, ..bench.way };
    came(bench.fetch().await, &bench.new);
    assert_eq!(bench.registry.log(), ["GET /lies", "GET /new.wasm"]);
}

#[tokio::test]
async fn a_base_that_has_rotted_leads_to_the_whole() {
    let bench = Bench::new().await;
    let base = bench.node.fetcher.store().path_of(&bench.way.base).unwrap().unwrap();
    let mut rotten = std::fs::read(&base).unwrap();
    rotten[300_000] ^= 1;
    std::fs::write(&base, rotten).unwrap();
    came(bench.fetch().await, &bench.new);
    assert_eq!(bench.registry.log(), ["GET /patch", "GET /new.wasm"]);
}

#[tokio::test]
async fn a_beginning_that_is_here_is_gone_on_with_by_a_difference() {
    let bench = Bench::new().await;
    bench.registry.plan([Fault::CutAfter(700_000), Fault::Status(404, "")]);
    bench.node.fetch(&bench.new, &[&bench.full]).await.unwrap_err();
    came(bench.fetch().await, &bench.new);
}

#[tokio::test]
async fn who_waits_for_a_difference_that_another_one_brings_has_no_turn_meanwhile() {
    let bench = Bench::new().await;
    let times = (QUICK.0, QUICK.1, Duration::from_millis(200));
    let node = Node::with_times(ArtifactSettings::default(), Keyring::default(), times);
    let old = module(1, 900_000);
    let base = bench.registry.put_file("/base.wasm", &old);
    came(node.fetch(&old, &[&base]).await, &old);
    bench.registry.log();
    // Its difference hangs, so that it makes way for whoever asks; and those who ask all want the same difference first.
    bench.registry.plan([Fault::HangAfter(100)]);
    let mut waiting = tokio::task::JoinSet::new();
    for fill in 10..16 {
        let (bytes, fetcher) = (module(fill, 30_000), node.fetcher.clone());
        let want = Want { deltas: vec![bench.way.clone()], ..want(&bytes, &[&bench.full]) };
        waiting.spawn(async move { fetcher.fetch(want, &|_| {}).await.map(drop) });
    }
    let other = module(4, 5000);
    let file = bench.registry.put_file("/4.wasm", &other);
    let asked = async {
        while bench.registry.log().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    in_time(asked).await;
    came(in_time(node.fetch(&other, &[&file])).await, &other);
}
