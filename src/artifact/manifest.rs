//! What a registry's manifest says: which blob is the module.
//!
//! Owns: the choice of the layer, and of the manifest in an index. Not: fetching either. Pure.
//!
//! Accepted: the layout of the CNCF (config `application/vnd.wasm.config.v0+json`, one layer `application/wasm`), older types
//! of layers, and any config type, since registries differ in what they let in. In an index: the entry for a `wasm`
//! platform, or the only one.

use oci_client::manifest::{OciDescriptor, OciImageIndex, OciImageManifest, OciManifest};

use crate::image::Digest;

/// The layer type of the CNCF's layout.
pub const LAYER_WASM: &str = "application/wasm";

/// The config type of the CNCF's layout.
pub const CONFIG_WASM: &str = "application/vnd.wasm.config.v0+json";

/// Types of layers that are modules, all of them.
const LAYERS: [&str; 4] = [
    LAYER_WASM,
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];

/// What is asked for with `Accept`.
pub const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";

/// Longest manifest, bytes. One of a module has under a kilobyte; the specification wants registries to take 4 MiB, for
/// images of hundreds of layers.
pub const MANIFEST_BYTES_MAX: usize = 512 * 1024;

/// Where to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The module.
    Layer { digest: Digest, size: u64 },
    /// The manifest for our platform.
    Manifest(Digest),
}

/// Reads a manifest or an index.
///
/// # Errors
///
/// Says why no module can be had from it; fits after the image's name and a colon.
pub fn choose(json: &[u8]) -> Result<Choice, String> {
    let manifest: OciManifest = serde_json::from_slice(json)
        .map_err(|_| "its manifest is neither an image's nor an index".to_owned())?;
    match manifest {
        OciManifest::Image(image) => module_layer(&image),
        OciManifest::ImageIndex(index) => our_manifest(&index),
    }
}

fn module_layer(image: &OciImageManifest) -> Result<Choice, String> {
    let modules: Vec<&OciDescriptor> =
        image.layers.iter().filter(|layer| LAYERS.contains(&media_type(layer))).collect();
    match modules.as_slice() {
        [] if image.layers.iter().any(|layer| layer.media_type.contains("tar")) => {
            Err("it is a container image (layers of tar); push the module itself as an artifact \
                 (podling image push, wkg oci push, oras push)"
                .to_owned())
        }
        [] => {
            let types: Vec<&str> = image.layers.iter().take(4).map(media_type).collect();
            Err(format!("no layer is of type {LAYER_WASM}, but {}", types.join(", ")))
        }
        [layer] => {
            let digest = layer.digest.parse().map_err(|fault| format!("{fault}"))?;
            let size = u64::try_from(layer.size)
                .map_err(|_| format!("its layer has the size {}", layer.size))?;
            Ok(Choice::Layer { digest, size })
        }
        several => Err(format!("it has {} modules, where one is expected", several.len())),
    }
}

fn our_manifest(index: &OciImageIndex) -> Result<Choice, String> {
    let is_wasm = |platform: &Option<oci_client::manifest::Platform>| {
        platform.as_ref().is_some_and(|platform| platform.architecture.to_string() == "wasm")
    };
    let ours = index
        .manifests
        .iter()
        .find(|entry| is_wasm(&entry.platform))
        .or_else(|| index.manifests.first().filter(|_| index.manifests.len() == 1));
    let Some(entry) = ours else {
        return Err(format!(
            "none of the {} images in its index is for the architecture wasm",
            index.manifests.len()
        ));
    };
    Ok(Choice::Manifest(entry.digest.parse().map_err(|fault| format!("{fault}"))?))
}

/// Without parameters.
fn media_type(layer: &OciDescriptor) -> &str {
    layer.media_type.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn image(config: &str, layers: &[&str]) -> Vec<u8> {
        let layer = |kind: &&str| {
            format!(r#"{{"mediaType":"{kind}","digest":"sha256:{HEX}","size":482133}}"#)
        };
        let layers: Vec<String> = layers.iter().map(layer).collect();
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
                "config":{{"mediaType":"{config}","digest":"sha256:{HEX}","size":2}},
                "layers":[{}]}}"#,
            layers.join(",")
        )
        .into_bytes()
    }

    fn index(platforms: &[&str]) -> Vec<u8> {
        let entry = |platform: &&str| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json",
                    "digest":"sha256:{HEX}","size":500{platform}}}"#
            )
        };
        let entries: Vec<String> = platforms.iter().map(entry).collect();
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",
                "manifests":[{}]}}"#,
            entries.join(",")
        )
        .into_bytes()
    }

    #[test]
    fn a_module_is_found_under_each_of_its_types() {
        let digest = Digest::from_hex(HEX).unwrap();
        for config in [CONFIG_WASM, "application/vnd.oci.empty.v1+json", "x/y"] {
            for kind in LAYERS {
                let chosen = choose(&image(config, &[kind])).unwrap();
                assert_eq!(chosen, Choice::Layer { digest, size: 482_133 }, "{config} {kind}");
            }
        }
        let beside = image(CONFIG_WASM, &["text/plain", "application/wasm; version=1"]);
        assert!(matches!(choose(&beside), Ok(Choice::Layer { .. })));
    }

    #[test]
    fn an_index_leads_to_the_wasm_platform_or_to_its_only_entry() {
        let digest = Digest::from_hex(HEX).unwrap();
        const WASM: &str = r#","platform":{"os":"wasip2","architecture":"wasm"}"#;
        const LINUX: &str = r#","platform":{"os":"linux","architecture":"amd64"}"#;
        for platforms in [&[LINUX, WASM][..], &[WASM], &[""]] {
            assert_eq!(choose(&index(platforms)), Ok(Choice::Manifest(digest)));
        }
        assert_eq!(
            choose(&index(&[LINUX, LINUX])).unwrap_err(),
            "none of the 2 images in its index is for the architecture wasm"
        );
    }

    #[test]
    fn what_holds_no_module_is_explained() {
        const TAR: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
        for (json, fault) in [
            (image("x/y", &[TAR]), "it is a container image (layers of tar)"),
            (image("x/y", &["text/plain"]), "no layer is of type application/wasm, but text/plain"),
            (image("x/y", &[LAYER_WASM, LAYER_WASM]), "it has 2 modules, where one is expected"),
            (b"<html>".to_vec(), "its manifest is neither an image's nor an index"),
            (b"{}".to_vec(), "its manifest is neither an image's nor an index"),
        ] {
            let said = choose(&json).unwrap_err();
            assert!(said.starts_with(fault), "{said}");
        }
    }
}
