#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::*;

/// An authority with the files that it gives out.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) dir: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Certificate and key as PEM.
    pub(crate) fn give(
        &self,
        name: &str,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> [String; 2] {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        [certificate.pem(), key.serialize_pem()]
    }

    /// Puts certificate and key into files.
    pub(crate) fn put(&self, stem: &str, [certificate, key]: &[String; 2]) -> Identity {
        let identity = Identity {
            certificate: self.path(&format!("{stem}.pem")),
            key: self.path(&format!("{stem}.key")),
        };
        std::fs::write(&identity.certificate, certificate).unwrap();
        std::fs::write(&identity.key, key).unwrap();
        std::fs::set_permissions(&identity.key, Permissions::from_mode(0o600)).unwrap();
        identity
    }

    pub(crate) fn settings(&self, stem: &str) -> TlsSettings {
        let identity = self.put(stem, &self.give("gw-17", |_| {}));
        TlsSettings { ca: Some(self.ca()), identity: Some(identity), ..TlsSettings::default() }
    }
}

fn files(settings: TlsSettings) -> TlsFiles {
    TlsFiles::new(settings, Clock::start())
}

#[test]
fn files_that_cannot_be_used_are_named_with_what_to_do() {
    let ca = Authority::new("CA");
    let good = ca.settings("gw");
    let with = |edit: &dyn Fn(&mut TlsSettings)| {
        let mut settings = good.clone();
        edit(&mut settings);
        chain(&files(settings).choose().unwrap_err())
    };
    std::fs::write(ca.path("empty"), "").unwrap();
    std::fs::write(ca.path("broken"), "-----BEGIN CERTIFICATE-----\n!!!\n").unwrap();
    let other = ca.put("other", &ca.give("other", |_| {}));
    std::fs::set_permissions(ca.ca(), Permissions::from_mode(0o640)).unwrap();
    let open = ca.put("open", &ca.give("open", |_| {}));
    std::fs::set_permissions(&open.key, Permissions::from_mode(0o644)).unwrap();
    type Edit<'a> = &'a dyn Fn(&mut TlsSettings);
    let rows: [(Edit<'_>, &str); 6] = [
        (&|s| s.ca = Some(ca.path("absent")), "cannot read"),
        (&|s| s.ca = Some(ca.path("empty")), "holds no certificate"),
        (&|s| s.ca = Some(ca.path("broken")), "holds no PEM"),
        (&|s| s.identity.as_mut().unwrap().key = other.key.clone(), "does not belong"),
        (&|s| s.identity.as_mut().unwrap().key = ca.ca(), "holds no PEM"),
        (&|s| s.identity = Some(open.clone()), "chmod 600"),
    ];
    for (edit, expected) in rows {
        let error = with(edit);
        assert!(error.contains(expected), "{error}: {expected}");
    }
    assert!(files(good).choose().is_ok());
}

#[test]
fn new_files_are_used_and_bad_ones_cost_nothing() {
    let ca = Authority::new("CA");
    let mut files = files(ca.settings("gw"));
    let first = files.choose().unwrap();
    files.worked(&first);
    assert!(!files.renewal_due());
    std::fs::write(ca.path("gw.pem"), "half a certif").unwrap();
    assert!(!files.renewal_due(), "not until they can be used");
    assert!(files.complaint().unwrap().contains("gw.pem"));
    let still = files.choose().unwrap();
    assert!(Arc::ptr_eq(&still.config, &first.config));
    ca.settings("gw");
    assert!(files.renewal_due());
    assert!(!files.renewal_due(), "told once");
    assert_eq!(files.complaint(), None);
    assert!(!Arc::ptr_eq(&files.choose().unwrap().config, &first.config));
}

#[test]
fn of_files_that_are_refused_the_last_that_worked_are_used_in_turn() {
    let ca = Authority::new("CA");
    let mut files = files(ca.settings("gw"));
    let old = files.choose().unwrap();
    files.worked(&old);
    ca.settings("gw");
    let new = files.choose().unwrap();
    let is_old = |choice: &Choice| Arc::ptr_eq(&choice.config, &old.config);
    assert!(!is_old(&new));
    files.failed(&new);
    let again = files.choose().unwrap();
    assert!(is_old(&again));
    files.failed(&again);
    let new_again = files.choose().unwrap();
    assert!(!is_old(&new_again), "both fail: in turn");
    files.failed(&new_again);
    let back = files.choose().unwrap();
    files.worked(&back);
    assert!(!is_old(&files.choose().unwrap()), "the next connection gives the new ones a chance");
}

#[test]
fn files_that_never_worked_have_nothing_to_fall_back_to() {
    let ca = Authority::new("CA");
    let mut files = files(ca.settings("gw"));
    let first = files.choose().unwrap();
    files.failed(&first);
    assert!(Arc::ptr_eq(&files.choose().unwrap().config, &first.config));
}

#[test]
fn without_a_clock_it_is_at_least_the_time_of_the_files() {
    let ca = Authority::new("CA");
    let (_, floor) = files(ca.settings("gw")).stamps().unwrap();
    let year_2020 = Duration::from_secs(1_577_836_800);
    assert!(floor > year_2020, "{floor:?}");
    // A file that was put there while the clock showed 2100.
    let far = Duration::from_secs(4_102_444_800);
    let file = std::fs::File::options().write(true).open(ca.ca()).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH + far).unwrap();
    let (_, floor) = files(ca.settings("gw")).stamps().unwrap();
    assert!((year_2020..far).contains(&floor), "every certificate would have expired: {floor:?}");
    let time = FlooredTime { clock: Clock::start(), floor: far };
    assert_eq!(time.current_time().unwrap().as_secs(), far.as_secs());
    assert_eq!(date(UnixTime::since_unix_epoch(year_2020)), "2020-01-01T00:00:00Z");
}
