//! # `mesh ca`
//!
//! Job: a root CA and issuers under it, as files in the form that `step` writes: PEM, P-256.
//! May touch: the folder named. Must not touch: clusters. Callers: `lib.rs`.

use crate::{args::Globals, check::engine, output};
use anyhow::{Context, Result, bail};
use mesh_pki::{CaParams, Certificate, CertifiedKey, Key, create_issuer, create_root};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

/// Arguments of `mesh ca`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a root CA (ca.crt, ca.key) and issuers (issuer.crt, issuer.key)
    Create(Create),
}

/// Arguments of `mesh ca create`.
#[derive(Debug, clap::Args)]
struct Create {
    /// Folder for the files
    #[arg(long, default_value = ".")]
    out: PathBuf,
    /// Make an issuer in a folder of this name below --out; repeat for several clusters [default: one
    /// issuer beside the root]
    #[arg(long = "issuer", value_name = "NAME")]
    issuers: Vec<String>,
    /// Use the root in --out instead of making one, to add an issuer for another cluster
    #[arg(long)]
    existing_root: bool,
    /// Trust domain in the certificates' names
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
    /// How long the root lives
    #[arg(long, default_value = "87600h", value_parser = engine::duration)]
    root_lifetime: Duration,
    /// How long issuers live
    #[arg(long, default_value = "8760h", value_parser = engine::duration)]
    issuer_lifetime: Duration,
    /// Overwrite files that exist
    #[arg(long)]
    force: bool,
}

/// Runs the verb.
pub fn run(globals: &Globals, args: Args) -> ExitCode {
    let Verb::Create(create) = args.verb;
    output::exit(make(&globals.linkerd_namespace, &create))
}

fn make(namespace: &str, args: &Create) -> Result<()> {
    let folders: Vec<PathBuf> = match args.issuers.as_slice() {
        [] => vec![args.out.clone()],
        names => names.iter().map(|name| folder(&args.out, name)).collect::<Result<_>>()?,
    };
    let root_files = (!args.existing_root).then_some(("ca.crt", "ca.key", args.out.as_path()));
    let wanted =
        folders.iter().map(|f| ("issuer.crt", "issuer.key", f.as_path())).chain(root_files);
    // Nothing is written before all is known to be free.
    for path in wanted.flat_map(|(crt, key, folder)| [folder.join(crt), folder.join(key)]) {
        if path.exists() && !args.force {
            bail!(
                "{} exists already: choose another folder with --out, or overwrite with --force",
                path.display()
            );
        }
    }
    let now = SystemTime::now();
    let root = if args.existing_root {
        read_root(&args.out)?
    } else {
        let name = format!("root.{namespace}.{}", args.trust_domain);
        let root = create_root(&CaParams::root(&name, now, args.root_lifetime))?;
        write_pair(&args.out, "ca", &root)?;
        root
    };
    let name = format!("identity.{namespace}.{}", args.trust_domain);
    for folder in &folders {
        let issuer = create_issuer(&root, &CaParams::issuer(&name, now, args.issuer_lifetime))?;
        write_pair(folder, "issuer", &issuer)?;
    }
    Ok(())
}

fn folder(out: &Path, name: &str) -> Result<PathBuf> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(legal) {
        bail!("`{name}` cannot be an issuer's folder: use letters, digits, `-` and `_`");
    }
    Ok(out.join(name))
}

fn read_root(out: &Path) -> Result<CertifiedKey> {
    let read = |name: &str| {
        let path = out.join(name);
        fs::read(&path)
            .with_context(|| format!("cannot read {}, which --existing-root needs", path.display()))
    };
    let chain = Certificate::chain_from_pem(&read("ca.crt")?)
        .context("ca.crt is not a certificate in PEM form")?;
    let certificate = chain.into_iter().next().context("ca.crt holds no certificate")?;
    let key = Key::from_pem(&read("ca.key")?).context("ca.key is not a private key in PEM form")?;
    Ok(CertifiedKey { certificate, key })
}

fn write_pair(folder: &Path, name: &str, pair: &CertifiedKey) -> Result<()> {
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let key = pair.key.to_sec1_pem().unwrap_or_else(|| pair.key.to_pem());
    write(&folder.join(format!("{name}.key")), &key, 0o600)?;
    write(&folder.join(format!("{name}.crt")), &pair.certificate.to_pem(), 0o644)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))?;
    output::note(format!("wrote {}", path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_pki::{Issuer, TrustBundle};

    fn args(out: &Path, issuers: &[&str]) -> Create {
        Create {
            out: out.to_owned(),
            issuers: issuers.iter().map(|&i| i.to_owned()).collect(),
            existing_root: false,
            trust_domain: "cluster.local".into(),
            root_lifetime: Duration::from_secs(86_400 * 365),
            issuer_lifetime: Duration::from_secs(86_400),
            force: false,
        }
    }

    #[test]
    fn issuers_verify_under_the_shared_root() {
        let dir = tempfile::tempdir().unwrap();
        make("linkerd", &args(dir.path(), &["east", "west"])).unwrap();
        let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
        let anchors = TrustBundle::from_pem(&read("ca.crt")).unwrap();
        for cluster in ["east", "west"] {
            let issuer = Issuer::from_pem(
                &read(&format!("{cluster}/issuer.crt")),
                &read(&format!("{cluster}/issuer.key")),
            )
            .unwrap();
            issuer.verify(&anchors, SystemTime::now()).unwrap();
        }
        let more = Create { existing_root: true, ..args(dir.path(), &["north"]) };
        make("linkerd", &more).unwrap();
        let issuer =
            Issuer::from_pem(&read("north/issuer.crt"), &read("north/issuer.key")).unwrap();
        issuer.verify(&anchors, SystemTime::now()).unwrap();
    }

    #[test]
    fn nothing_is_overwritten_unasked() {
        let dir = tempfile::tempdir().unwrap();
        make("linkerd", &args(dir.path(), &[])).unwrap();
        let before = fs::read(dir.path().join("ca.crt")).unwrap();
        let error = make("linkerd", &args(dir.path(), &[])).unwrap_err().to_string();
        assert!(error.contains("--force"), "{error}");
        assert_eq!(fs::read(dir.path().join("ca.crt")).unwrap(), before);
        assert!(make("linkerd", &args(dir.path(), &["../x"])).is_err());
    }
}
