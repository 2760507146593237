//! The nouns of tollgate as types, so that an API is never looked up under the name of a plan.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Declares a name: a cheap-to-clone string that is not interchangeable with any other name.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as it stands in the configuration.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Arc::from(text))
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Arc::from(text))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name!(
    /// An API: a base path on some hosts, published as one thing.
    ApiName
);
name!(
    /// A named group of endpoints.
    UpstreamName
);
name!(
    /// A set of limits that a subscription refers to.
    PlanName
);
name!(
    /// One limit inside a plan or an API.
    LimitName
);
name!(
    /// A client program: it owns keys and subscribes to APIs.
    ApplicationName
);
name!(
    /// The public name of a key; never the key itself.
    KeyId
);
name!(
    /// A token issuer, as the configuration calls it (not its `iss`).
    IssuerName
);
