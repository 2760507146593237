//! The facts that keep a request out. Status, headers and texts are made of them in one place of the gateway.

/// Why a request is kept out: facts only. What the client is told about it is decided elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// No credential of a kind that the API accepts.
    CredentialMissing,
    /// More than one credential, or a client certificate with names of several applications.
    CredentialAmbiguous,
    /// A credential that is not accepted; the reason is for the log, clients are told none.
    CredentialInvalid(Invalid),
    /// A key or token whose time is over.
    CredentialExpired,
    /// A key of a type that this gateway does not let in.
    KeyTypeMismatch,
    /// The application is not subscribed to the API, or the token names no application that exists.
    SubscriptionMissing,
    /// The token lacks a scope, or a key was used where scopes are asked for.
    ScopeInsufficient {
        /// All scopes that the route asks for.
        required: Box<[String]>,
    },
    /// Who could tell is not to be had now, the token's issuer, the service that knows it, or the control plane for a key:
    /// the credential can be neither accepted nor refused.
    KeysUnavailable,
    /// Somebody would have to be asked about the token, and explanations ask nobody.
    NotAsked,
}

/// What is wrong with an invalid credential. For logs and explanations, never for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Invalid {
    /// It looks like one of our keys, but its checksum is wrong.
    Mistyped,
    /// No key of this revision or of the key log has this hash, or it was revoked.
    UnknownKey,
    /// No application has a name that is in the client's certificate.
    UnknownCertificate,
    /// It is not a key or token at all: size, characters, parts, encoding, JSON.
    Malformed,
    /// The token's header: its `typ` or a member of the wrong type.
    Header,
    /// The token says that something must be understood, and we understand no extension.
    Critical,
    /// `none`, unknown, not among the issuer's algorithms, or not what the key is for.
    Algorithm,
    /// No key of the issuer goes by this `kid`, or none fits.
    UnknownSigner,
    /// The signature is wrong.
    Signature,
    /// None of the API's issuers issued it.
    Issuer,
    /// It was issued for somebody else.
    Audience,
    /// It is not valid yet.
    NotYetValid,
    /// The service that was asked about the token does not call it active.
    Inactive,
    /// A claim is missing, doubled, of the wrong type or out of range.
    Claims,
}

impl Denial {
    /// One word for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::CredentialMissing => "missing",
            Self::CredentialAmbiguous => "ambiguous",
            Self::CredentialInvalid(invalid) => invalid.reason(),
            Self::CredentialExpired => "expired",
            Self::KeyTypeMismatch => "key_type",
            Self::SubscriptionMissing => "subscription",
            Self::ScopeInsufficient { .. } => "scope",
            Self::KeysUnavailable => "keys_unavailable",
            Self::NotAsked => "not_asked",
        }
    }

    pub(super) fn scopes(required: &[String]) -> Self {
        Self::ScopeInsufficient {
            required: required.into(),
        }
    }
}

impl Invalid {
    /// One word for logs and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Mistyped => "mistyped",
            Self::UnknownKey => "unknown_key",
            Self::UnknownCertificate => "unknown_certificate",
            Self::Malformed => "malformed",
            Self::Header => "header",
            Self::Critical => "critical",
            Self::Algorithm => "algorithm",
            Self::UnknownSigner => "unknown_signer",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::NotYetValid => "not_yet_valid",
            Self::Inactive => "inactive",
            Self::Claims => "claims",
        }
    }
}
