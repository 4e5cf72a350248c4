//! # Certificates of the rig
//!
//! Job: one root; a folder with token, key and leaf for each proxy, for peers that read files; leafs on
//! demand for those that ask the identity API.
//! May touch: files in the rig's folder. Callers: the rig, the control plane.

use anyhow::{Context, Result};
use mesh_model::identity::Identity;
use mesh_pki::{CaParams, Csr, IssuedLeaf, Issuer, Key, LeafPolicy, create_csr, create_root};
use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

/// Signs leafs.
pub(crate) struct Authority(Issuer);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Makes the root and the folders of `names` below `dir`.
pub(crate) fn create(dir: &Path, names: &[&str]) -> Result<()> {
    fs::create_dir_all(dir)?;
    let start = SystemTime::now() - Duration::from_secs(60);
    let root = create_root(&CaParams::root("root.linkerd.cluster.local", start, 10 * DAY))?;
    fs::write(dir.join("root.crt"), root.certificate.to_pem())?;
    fs::write(dir.join("root.key"), root.key.to_pem())?;
    let authority = Authority::load(dir)?;
    for name in names {
        let folder = dir.join(name);
        fs::create_dir_all(&folder)?;
        let key = Key::generate()?;
        let csr = create_csr(&name.parse().context("a name of the rig")?, &key)?;
        let leaf = authority.certify(name, &csr, 2 * DAY)?;
        let parsed = mesh_pki::Certificate::from_der(&leaf.leaf)?;
        let (certificate, key_pem) = (parsed.to_pem(), key.to_pem());
        fs::write(folder.join("tls.crt"), &certificate)?;
        fs::write(folder.join("tls.key"), &key_pem)?;
        fs::write(folder.join("all.pem"), certificate + &key_pem)?;
        fs::write(folder.join("token"), "token")?;
        fs::write(folder.join("csr.der"), csr)?;
        fs::write(folder.join("key.p8"), key.der().secret_der())?;
    }
    Ok(())
}

impl Authority {
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let read = |name| fs::read(dir.join(name)).with_context(|| format!("the rig's {name}"));
        Ok(Self(Issuer::from_pem(&read("root.crt")?, &read("root.key")?)?))
    }

    /// A leaf for whoever asks: the rig trusts its proxies.
    pub(crate) fn certify(&self, name: &str, csr: &[u8], lifetime: Duration) -> Result<IssuedLeaf> {
        let csr = Csr::from_der(csr)?.check(&Identity::Dns(name.parse()?))?;
        let policy = LeafPolicy { lifetime, clock_skew: Duration::from_secs(10) };
        Ok(self.0.issue(&csr, policy, SystemTime::now())?)
    }
}
