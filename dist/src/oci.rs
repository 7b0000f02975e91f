//! The module as registries take it: an image with `plugin.wasm` in its only layer, and an artifact of two layers.
//!
//! Its one rule: every blob lies under its own hash, and nothing in a blob says when or where it was written.
//! It does not speak to a registry.

use std::path::Path;

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::crates::Package;
use crate::put;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image in the "compat" form of the Wasm image specification, which Istio and Envoy Gateway pull, and Docker's tools
/// keep.
pub fn write_image(folder: &Path, module: &[u8], own: &Package) -> Result<(), String> {
    let archive = archive(module).map_err(|error| format!("the layer cannot be packed: {error}"))?;
    let mut packer = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    let layer = std::io::Write::write_all(&mut packer, &archive).and_then(|()| packer.finish());
    let layer = layer.map_err(|error| format!("the layer cannot be compressed: {error}"))?;
    let config = json!({
        "architecture": "wasm",
        "os": "wasip1",
        "config": { "Labels": labels(own) },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&archive))] },
    });
    let mut annotations = labels(own);
    annotations["module.wasm.image/variant"] = json!("compat");
    let layout = Layout { folder, tag: &own.version };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": layout.add("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?,
        "layers": [layout.add("application/vnd.oci.image.layer.v1.tar+gzip", &layer)?],
        "annotations": annotations,
    });
    layout.finish(&manifest)
}

/// An artifact whose second layer is the module itself, so that its blob can be loaded under the hash that Envoy wants.
pub fn write_artifact(folder: &Path, module: &[u8], own: &Package) -> Result<(), String> {
    const CONFIG: &str = "application/vnd.module.wasm.config.v1+json";
    let runtime = json!({ "type": "envoy_proxy", "abiVersions": ["v0.2.1"], "config": { "rootIds": ["idempotency"] } });
    let layout = Layout { folder, tag: &own.version };
    let mut content = layout.add("application/vnd.module.wasm.content.layer.v1+wasm", module)?;
    content["annotations"] = json!({ "org.opencontainers.image.title": "plugin.wasm" });
    let config = layout.add(CONFIG, runtime.to_string().as_bytes())?;
    let mut first = config.clone();
    first["annotations"] = json!({ "org.opencontainers.image.title": "runtime-config.json" });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [first, content],
        "annotations": labels(own),
    });
    layout.finish(&manifest)
}

fn labels(own: &Package) -> Value {
    json!({
        "org.opencontainers.image.title": own.name,
        "org.opencontainers.image.description": own.description,
        "org.opencontainers.image.version": own.version,
        "org.opencontainers.image.licenses": own.licence,
    })
}

/// One file, without an owner and a time.
fn archive(module: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_size(module.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "plugin.wasm", module)?;
    archive.into_inner()
}

/// A folder that tools read as they read a registry.
struct Layout<'a> {
    folder: &'a Path,
    tag: &'a str,
}

impl Layout<'_> {
    /// Adds a blob, and says how a manifest names it.
    fn add(&self, media_type: &str, blob: &[u8]) -> Result<Value, String> {
        let hash = hex(blob);
        put(&self.folder.join("blobs/sha256"), &hash, blob)?;
        Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{hash}"), "size": blob.len() }))
    }

    fn finish(&self, manifest: &Value) -> Result<(), String> {
        let mut named = self.add(MANIFEST, manifest.to_string().as_bytes())?;
        named["annotations"] = json!({ "org.opencontainers.image.ref.name": self.tag });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [named] });
        put(self.folder, "index.json", index.to_string().as_bytes())?;
        put(self.folder, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
    }
}

/// The SHA-256 as everybody writes it.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
