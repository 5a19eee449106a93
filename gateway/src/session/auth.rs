//! Who may log in, and how a password is proven.
//!
//! Lives here: SCRAM-SHA-256 (RFC 5802 and 7677, the server's half) as a small state machine over texts, and the verifier
//! that stands for a password in the catalog. Not here: messages and sockets (`startup`). A password is never stored, logged
//! or compared; a role that does not exist goes through the same exchange and fails at its end.

use std::{net::IpAddr, num::NonZeroU32, sync::LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ring::{digest, hmac, pbkdf2, rand::SecureRandom};

use crate::{
    error::{PgError, SqlState},
    statement::LoginRole,
};

/// The one mechanism we offer.
pub(crate) const MECHANISM: &str = "SCRAM-SHA-256";
/// Postgres's default.
const ITERATIONS: u32 = 4096;
/// A verifier from elsewhere may ask for more; the client pays for them.
const ITERATIONS_MAX: u32 = 10_000_000;
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 18;
const KEY_BYTES: usize = digest::SHA256_OUTPUT_LEN;

/// What a connection must do before it is let in.
pub(crate) enum Demand {
    /// Loopback, and the role has no password.
    Trust,
    /// The exchange with this verifier.
    Scram(Verifier),
    /// There is no way in.
    Refuse(PgError),
}

/// Decides from the role and where the client is.
pub(crate) fn demand(role: Option<LoginRole>, user: &str, peer: IpAddr) -> Demand {
    let loopback = peer.to_canonical().is_loopback();
    match role {
        Some(LoginRole { password: Some(verifier) }) => match Verifier::parse(&verifier) {
            Some(verifier) => Demand::Scram(verifier),
            None => {
                tracing::error!(user, "the role's stored password is not a SCRAM verifier");
                Demand::Scram(Verifier::fake(user))
            }
        },
        Some(LoginRole { password: None }) if loopback => Demand::Trust,
        Some(LoginRole { password: None }) => Demand::Refuse(
            PgError::fatal(
                SqlState::INVALID_AUTHORIZATION,
                format!("role \"{user}\" has no password and may log in only from this machine"),
            )
            .with_hint(
                "Set a password first: ALTER ROLE ... PASSWORD '...', or POSTGRES_PASSWORD for a \
                 new data directory.",
            ),
        ),
        // Whoever is on this machine may connect without a password, so there is nothing to hide from it.
        None if loopback => Demand::Refuse(PgError::fatal(
            SqlState::INVALID_AUTHORIZATION,
            format!("role \"{user}\" does not exist"),
        )),
        None => Demand::Scram(Verifier::fake(user)),
    }
}

/// 28P01, the same whatever was wrong.
pub(crate) fn wrong_password(user: &str) -> PgError {
    PgError::fatal(
        SqlState::INVALID_PASSWORD,
        format!("password authentication failed for user \"{user}\""),
    )
}

/// What is stored instead of a password: enough to check a proof, not enough to make one.
#[derive(Clone, Debug)]
pub(crate) struct Verifier {
    iterations: u32,
    /// base64, as the client gets it.
    salt: String,
    stored_key: [u8; KEY_BYTES],
    server_key: [u8; KEY_BYTES],
    /// Of a role that does not exist: no proof is right.
    fake: bool,
}

impl Verifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    pub(crate) fn parse(text: &str) -> Option<Verifier> {
        let rest = text.strip_prefix(MECHANISM)?.strip_prefix('$')?;
        let (parameters, keys) = rest.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations = iterations.parse().ok().filter(|n| (1..=ITERATIONS_MAX).contains(n))?;
        BASE64.decode(salt).ok()?;
        let key = |text: &str| BASE64.decode(text).ok()?.try_into().ok();
        Some(Verifier {
            iterations,
            salt: salt.to_owned(),
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
            fake: false,
        })
    }

    /// The same salt for the same name each time, or a second try would tell that the role does not exist.
    fn fake(user: &str) -> Verifier {
        static SECRET: LazyLock<[u8; KEY_BYTES]> = LazyLock::new(rand::random);
        let salt = hmac_sha256(SECRET.as_slice(), user.as_bytes());
        Verifier {
            iterations: ITERATIONS,
            salt: BASE64.encode(&salt[..SALT_BYTES]),
            stored_key: rand::random(),
            server_key: rand::random(),
            fake: true,
        }
    }

    fn from_password(password: &str, salt: &[u8]) -> Verifier {
        // Like Postgres: what SASLprep refuses is taken as it is.
        let prepared = stringprep::saslprep(password).unwrap_or(password.into());
        let mut salted = [0; KEY_BYTES];
        let iterations = NonZeroU32::new(ITERATIONS).unwrap_or(NonZeroU32::MIN);
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(algorithm, iterations, salt, prepared.as_bytes(), &mut salted);
        let client_key = hmac_sha256(&salted, b"Client Key");
        Verifier {
            iterations: ITERATIONS,
            salt: BASE64.encode(salt),
            stored_key: sha256(&client_key),
            server_key: hmac_sha256(&salted, b"Server Key"),
            fake: false,
        }
    }
}

impl std::fmt::Display for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (stored, server) = (BASE64.encode(self.stored_key), BASE64.encode(self.server_key));
        write!(f, "{MECHANISM}${}:{}${stored}:{server}", self.iterations, self.salt)
    }
}

/// `SCRAM-SHA-256$4096:<salt>$<StoredKey>:<ServerKey>` for a new password, with a random salt. A text that is a verifier
/// already is kept, as `ALTER ROLE` in Postgres does.
pub fn scram_verifier(password: &str) -> String {
    if Verifier::parse(password).is_some() {
        return password.to_owned();
    }
    let salt: [u8; SALT_BYTES] = random();
    Verifier::from_password(password, &salt).to_string()
}

/// The server's half of one exchange.
pub(crate) struct Exchange {
    verifier: Verifier,
    /// The client's first message without its GS2 header.
    client_first_bare: String,
    gs2_header: String,
    server_first: String,
    nonce: String,
}

impl Exchange {
    /// Takes the client's first message; `server_first` is the answer.
    pub(crate) fn begin(verifier: Verifier, client_first: &str) -> Result<Exchange, PgError> {
        let nonce: [u8; NONCE_BYTES] = random();
        Exchange::begin_with(verifier, client_first, &BASE64.encode(nonce))
    }

    fn begin_with(verifier: Verifier, client_first: &str, own: &str) -> Result<Exchange, PgError> {
        let mut parts = client_first.splitn(3, ',');
        let (Some(binding), Some(identity), Some(bare)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed());
        };
        match binding {
            "n" | "y" => {}
            _ if binding.starts_with("p=") => {
                return Err(PgError::protocol(
                    "the client requires SCRAM channel binding, but it is not supported",
                ));
            }
            _ => return Err(malformed()),
        }
        if !identity.is_empty() {
            return Err(PgError::unsupported(
                "client uses authorization identity, but it is not supported",
                "Log in as the role itself.",
            ));
        }
        // `n=` is ignored as in Postgres: the user's name is the startup packet's.
        let mut attributes = bare.split(',');
        let user = attributes.next().is_some_and(|attribute| attribute.starts_with("n="));
        let client_nonce = attributes.next().and_then(|attribute| attribute.strip_prefix("r="));
        let (true, Some(client_nonce)) = (user, client_nonce) else { return Err(malformed()) };
        let printable = client_nonce.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
        if client_nonce.is_empty() || !printable {
            return Err(malformed());
        }
        let nonce = format!("{client_nonce}{own}");
        Ok(Exchange {
            server_first: format!("r={nonce},s={},i={}", verifier.salt, verifier.iterations),
            client_first_bare: bare.to_owned(),
            gs2_header: format!("{binding},{identity},"),
            verifier,
            nonce,
        })
    }

    pub(crate) fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Takes the client's final message: the server's final one if the proof is right, `None` if it is wrong.
    pub(crate) fn finish(&self, client_final: &str) -> Result<Option<String>, PgError> {
        let (without_proof, proof) = client_final.rsplit_once(",p=").ok_or_else(malformed)?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|attribute| attribute.strip_prefix("c="));
        let nonce = attributes.next().and_then(|attribute| attribute.strip_prefix("r="));
        let (Some(binding), Some(nonce)) = (binding, nonce) else { return Err(malformed()) };
        if BASE64.decode(binding).map_err(|_| malformed())? != self.gs2_header.as_bytes() {
            return Err(PgError::protocol("unexpected SCRAM channel-binding attribute"));
        }
        if nonce != self.nonce {
            return Err(PgError::protocol("invalid SCRAM response: nonce does not match"));
        }
        let proof: [u8; KEY_BYTES] = BASE64
            .decode(proof)
            .ok()
            .and_then(|proof| proof.try_into().ok())
            .ok_or_else(malformed)?;
        let message = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        let signature = hmac_sha256(&self.verifier.stored_key, message.as_bytes());
        let mut client_key = proof;
        client_key.iter_mut().zip(signature).for_each(|(byte, mask)| *byte ^= mask);
        // Comparing hashes: where they first differ tells nothing about the key.
        if self.verifier.fake || sha256(&client_key) != self.verifier.stored_key {
            return Ok(None);
        }
        let server = hmac_sha256(&self.verifier.server_key, message.as_bytes());
        Ok(Some(format!("v={}", BASE64.encode(server))))
    }
}

fn malformed() -> PgError {
    PgError::protocol("malformed SCRAM message")
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if ring::rand::SystemRandom::new().fill(&mut bytes).is_err() {
        // The operating system gives no randomness; the thread's generator was seeded from it earlier.
        rand::fill(&mut bytes[..]);
    }
    bytes
}

fn hmac_sha256(key: &[u8], data: &[u8]) -> [u8; KEY_BYTES] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    tag.as_ref().try_into().unwrap_or_default()
}

fn sha256(data: &[u8]) -> [u8; KEY_BYTES] {
    digest::digest(&digest::SHA256, data).as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_exchange_is_as_in_the_rfc() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let verifier = Verifier::from_password("pencil", &salt);
        let first = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
        let own = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let exchange = Exchange::begin_with(verifier, first, own).expect("first message");
        assert_eq!(
            exchange.server_first(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let right = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                     p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(
            exchange.finish(right).expect("well formed").as_deref(),
            Some("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
        );
        let wrong = right.replace("p=dHz", "p=eHz");
        assert!(exchange.finish(&wrong).expect("well formed").is_none());
        assert!(exchange.finish(&right.replace("c=biws", "c=eSws")).is_err());
        assert!(exchange.finish("c=biws").is_err());
    }

    #[test]
    fn a_verifier_reads_back_as_written() {
        let text = scram_verifier("påss\u{a0}word");
        let verifier = Verifier::parse(&text).expect("a verifier");
        assert_eq!(verifier.to_string(), text);
        assert_eq!(scram_verifier(&text), text);
        assert!(Verifier::parse("SCRAM-SHA-256$0:AA==$AA==:AA==").is_none());
    }

    #[test]
    fn only_loopback_is_trusted() {
        let local: IpAddr = "::ffff:127.0.0.1".parse().expect("address");
        let remote: IpAddr = "10.0.0.1".parse().expect("address");
        let open = || Some(LoginRole { password: None });
        let closed = || Some(LoginRole { password: Some(scram_verifier("x")) });
        assert!(matches!(demand(open(), "u", local), Demand::Trust));
        assert!(matches!(demand(open(), "u", remote), Demand::Refuse(_)));
        assert!(matches!(demand(closed(), "u", local), Demand::Scram(_)));
        assert!(matches!(demand(None, "u", remote), Demand::Scram(_)));
        assert!(matches!(demand(None, "u", local), Demand::Refuse(_)));
    }
}
