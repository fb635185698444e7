//! Regions of Genesys Cloud, `upstream = "region"`, and APIs in another cloud than the credential that is used there.

use std::ops::Range;

use http::uri::{Authority, Scheme};
use toml::Spanned;
use url::Url;

use super::{Names, Resolver};
use crate::config::model::credential::Credential;
use crate::config::model::route::{Address, Destination};
use crate::config::source::nearest::{nearest, nearest_domain};

/// The value of `upstream` for the API of the credential's region.
pub(super) const REGION: &str = "region";

/// The regions of Genesys Cloud: the domain of their login and API hosts, and the region of AWS, by which Genesys names
/// them too.
const REGIONS: [(&str, &str); 18] = [
    ("mypurecloud.com", "us-east-1"),
    ("use2.us-gov-pure.cloud", "us-east-2"),
    ("usw2.pure.cloud", "us-west-2"),
    ("cac1.pure.cloud", "ca-central-1"),
    ("sae1.pure.cloud", "sa-east-1"),
    ("mxc1.pure.cloud", "mx-central-1"),
    ("mypurecloud.ie", "eu-west-1"),
    ("euw2.pure.cloud", "eu-west-2"),
    ("mypurecloud.de", "eu-central-1"),
    ("euc2.pure.cloud", "eu-central-2"),
    ("edee1.eusc-pure.cloud", "eusc-de-east-1"),
    ("mec1.pure.cloud", "me-central-1"),
    ("aps1.pure.cloud", "ap-south-1"),
    ("mypurecloud.jp", "ap-northeast-1"),
    ("apne2.pure.cloud", "ap-northeast-2"),
    ("apne3.pure.cloud", "ap-northeast-3"),
    ("apse1.pure.cloud", "ap-southeast-1"),
    ("mypurecloud.com.au", "ap-southeast-2"),
];

/// The places of regions of AWS, as AWS names them.
const PLACES: [(&str, &str); 19] = [
    ("virginia", "us-east-1"),
    ("ohio", "us-east-2"),
    ("oregon", "us-west-2"),
    ("canada", "ca-central-1"),
    ("montreal", "ca-central-1"),
    ("paulo", "sa-east-1"),
    ("mexico", "mx-central-1"),
    ("ireland", "eu-west-1"),
    ("dublin", "eu-west-1"),
    ("london", "eu-west-2"),
    ("frankfurt", "eu-central-1"),
    ("zurich", "eu-central-2"),
    ("uae", "me-central-1"),
    ("mumbai", "ap-south-1"),
    ("tokyo", "ap-northeast-1"),
    ("seoul", "ap-northeast-2"),
    ("osaka", "ap-northeast-3"),
    ("singapore", "ap-southeast-1"),
    ("sydney", "ap-southeast-2"),
];

/// The clouds of NICE CXone, each with the domains of its hosts.
const CXONE_CLOUDS: [&[&str]; 4] = [
    &["niceincontact.com", "nice-incontact.com", "incontact.com", "nicecxone.com"],
    &["nicecxone-fed.com"],
    &["nicecxone-sov1.au"],
    &["nicecxone-sov1.eu"],
];

/// The domains of the regions of Genesys Cloud.
pub(super) fn domains() -> [&'static str; REGIONS.len()] {
    REGIONS.map(|(domain, _)| domain)
}

/// The region to whose domain a host belongs.
pub(super) fn region_of(host: &str) -> Option<&'static str> {
    // The longest domain: mypurecloud.com.au does not end with mypurecloud.com, but a new domain might.
    domains().into_iter().filter(|domain| is_within(host, domain)).max_by_key(|domain| domain.len())
}

/// The first domain of the cloud of CXone to which a host belongs.
pub(super) fn cxone_cloud_of(host: &str) -> Option<&'static str> {
    let is_of = |domains: &&[&'static str]| domains.iter().any(|domain| is_within(host, domain));
    CXONE_CLOUDS.into_iter().find(is_of).map(|domains| domains[0])
}

/// The region of AWS that a text in lower case names by a place or a short form, as in `frankfurt` and `prod-euc1`.
fn region_within(text: &str) -> Option<&'static str> {
    let words = || text.split(|c: char| !c.is_alphanumeric());
    let place = PLACES.into_iter().find(|(place, _)| words().any(|word| word == *place));
    let by_code = || REGIONS.into_iter().find(|(_, aws)| words().any(|word| word == short_form(aws)));
    place.or_else(by_code).map(|(_, aws)| aws)
}

/// `euc1` for `eu-central-1`, `apne2` for `ap-northeast-2`.
fn short_form(aws: &str) -> String {
    let directions = [("north", "n"), ("south", "s"), ("east", "e"), ("west", "w"), ("central", "c")];
    let short =
        directions.into_iter().fold(aws.to_owned(), |text, (word, letter)| text.replace(word, letter));
    short.replace('-', "")
}

/// A set of hosts that know the same tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cloud {
    Genesys(&'static str),
    Cxone(&'static str),
}

impl Cloud {
    fn of(host: &str) -> Option<Self> {
        let host = host.to_ascii_lowercase();
        region_of(&host).map(Self::Genesys).or_else(|| cxone_cloud_of(&host).map(Self::Cxone))
    }

    fn name(self) -> String {
        match self {
            Self::Genesys(domain) => format!("{domain} of Genesys Cloud"),
            Self::Cxone(domain) => format!("{domain} of NICE CXone"),
        }
    }
}

impl Resolver<'_> {
    /// The domain of a region, which is written as its domain or as the region of AWS.
    pub(super) fn region(&mut self, region: &Spanned<String>) -> Option<&'static str> {
        let written = region.get_ref().to_ascii_lowercase();
        let is_meant = |(domain, aws): &(&str, &str)| *domain == written || *aws == written;
        if let Some((domain, _)) = REGIONS.into_iter().find(is_meant) {
            return Some(domain);
        }
        let of_aws = || nearest(&REGIONS.map(|(_, aws)| aws), &written, |distance, _| distance <= 2);
        let help =
            match nearest_domain(&domains(), &written).or_else(|| region_within(&written)).or_else(of_aws) {
                Some(meant) => {
                    format!("did you mean \"{meant}\"? For a new region, write `token_url` instead")
                }
                None => format!("{}; or the region of AWS, such as \"eu-central-1\"", one_of(&domains())),
            };
        self.refuse(region.span(), "not a known region of Genesys Cloud", help)
    }

    /// Warns of a token endpoint in another region than `region`.
    pub(super) fn compare_region(&mut self, token_url: &Spanned<String>, region: &'static str) {
        let host = Url::parse(token_url.get_ref()).ok();
        let other = host.as_ref().and_then(Url::host_str).and_then(region_of);
        if let Some(other) = other.filter(|other| *other != region) {
            let title = format!("`token_url` is in the region {other}, and `region` is {region}");
            self.warning(token_url.span(), title, "remove `token_url`: `region` leads to the token endpoint");
        }
    }

    /// The API of the region of a route's credential.
    pub(super) fn upstream_of_region(
        &mut self,
        place: &Range<usize>,
        credential: Option<&Spanned<String>>,
        names: Option<&Names>,
    ) -> Option<Destination> {
        const TITLE: &str = "`upstream = \"region\"` needs a credential with a region";
        // A missing or unknown credential is reported by itself.
        let name = credential?.get_ref();
        if name == "none" {
            let help =
                "write the address of the API, or a `credential` with provider = \"genesys\" and `region`";
            return self.refuse(place.clone(), TITLE, help);
        }
        if names.is_none_or(|names| !names.contains_key(name)) {
            return None;
        }
        let Some(region) = self.regions.get(name).copied() else {
            let help = "write the address of the API; only a credential with provider = \"genesys\" and `region` has one";
            return self.refuse(place.clone(), TITLE, help);
        };
        // A wrong region has been reported.
        let authority: Authority = format!("api.{}", region?).parse().ok()?;
        Some(Destination::Written(Address { scheme: Scheme::HTTPS, authority, path: String::new() }))
    }

    /// Warns of an API that does not know the tokens of the route's credential, where both are well known.
    pub(super) fn compare_clouds(&mut self, place: &Range<usize>, host: &str, credential: &Credential) {
        let api = host.to_ascii_lowercase();
        let login = region_of(&api).filter(|region| api == format!("login.{region}"));
        if let Some(region) = login {
            let help = format!("write upstream = \"https://api.{region}\", or \"region\"");
            return self.warning(place.clone(), "this is the host for logins, not for the API", help);
        }
        let region = self.regions.get(&credential.name).copied().flatten();
        let issuer = credential.discovery.as_ref().and_then(Url::host_str);
        let token_host = credential.token_url.url().host_str();
        let own = region
            .map(Cloud::Genesys)
            .or_else(|| issuer.and_then(Cloud::of))
            .or_else(|| token_host.and_then(Cloud::of));
        let (Some(own), Some(other)) = (own, Cloud::of(&api)) else { return };
        let name = &credential.name;
        if own != other {
            let help = match own {
                Cloud::Genesys(domain) if region.is_some() => {
                    format!(
                        "write upstream = \"region\", or change `region`: the API of {domain} is https://api.{domain}"
                    )
                }
                Cloud::Genesys(domain) => {
                    format!(
                        "the API of {domain} is https://api.{domain}: change `upstream` or the credential"
                    )
                }
                Cloud::Cxone(_) => {
                    "write upstream = \"discover\", or use a credential of this cloud".to_owned()
                }
            };
            let title = format!(
                "the API is in {}, and the tokens of the credential `{name}` are from {}",
                other.name(),
                own.name()
            );
            return self.warning(place.clone(), title, help);
        }
        // https://{area}.nice-incontact.com issues tokens for https://api-{area}.niceincontact.com.
        let area = token_host.and_then(|host| host.strip_suffix(".nice-incontact.com"));
        let api_area = api.strip_prefix("api-").and_then(|rest| rest.strip_suffix(".niceincontact.com"));
        if let (Some(area), Some(api_area)) = (area, api_area)
            && area != api_area
        {
            let title = format!(
                "the API is in the area {api_area}, and the tokens of the credential `{name}` are from {area}"
            );
            let help =
                format!("write upstream = \"https://api-{area}.niceincontact.com\", or change `token_url`");
            self.warning(place.clone(), title, help);
        }
    }
}

pub(super) fn one_of(known: &[&str]) -> String {
    format!("write one of: {}", known.join(", "))
}

fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Checked, Diagnostics, Environment, parse};

    fn read(credential: &str, upstream: &str, name: &str) -> Result<Checked, Box<Diagnostics>> {
        let text = format!(
            "[credentials.c]\nclient_id = \"i\"\nclient_secret = {{ env = \"S\" }}\n{credential}\n\
             [[routes]]\nupstream = \"{upstream}\"\ncredential = \"{name}\"\n"
        );
        parse(Path::new("proxy.toml"), text, &Environment::from([("S", "x")]))
    }

    /// Titles and remedies of all problems.
    fn said(credential: &str, upstream: &str, name: &str) -> Vec<String> {
        let problems =
            read(credential, upstream, name).map_or_else(|problems| *problems, |checked| checked.warnings);
        let said = problems.problems().iter();
        said.map(|problem| format!("{}: {}", problem.title, problem.help.clone().unwrap_or_default()))
            .collect()
    }

    const CXONE: &str = "provider = \"cxone\"\ngrant = \"client_credentials\"\nissuer = ";

    #[test]
    fn a_region_is_written_as_domain_or_as_region_of_aws_and_names_the_api() {
        for (domain, aws) in REGIONS {
            for written in [domain, aws, &aws.to_ascii_uppercase()] {
                let credential = format!("provider = \"genesys\"\nregion = \"{written}\"");
                let checked =
                    read(&credential, "region", "c").unwrap_or_else(|problems| panic!("{problems}"));
                assert_eq!(checked.warnings.warnings(), 0, "{}", checked.warnings);
                let config = checked.config;
                assert_eq!(
                    config.credentials[0].token_url.as_str(),
                    format!("https://login.{domain}/oauth/token")
                );
                let Destination::Written(api) = &config.routes[0].upstream.destination else { panic!() };
                assert_eq!((&api.scheme, api.path.as_str()), (&Scheme::HTTPS, ""));
                assert_eq!(api.authority.as_str(), format!("api.{domain}"));
            }
        }
        let [problem] = &said("provider = \"genesys\"\nregion = \"eu-centrl-1\"", "region", "c")[..] else {
            panic!()
        };
        assert!(problem.contains("did you mean \"eu-central-1\"?"), "{problem}");
    }

    #[test]
    fn an_unknown_region_is_found_by_its_place_or_its_short_form() {
        for (written, meant) in [
            ("Frankfurt", "eu-central-1"),
            ("Europe (Frankfurt)", "eu-central-1"),
            ("US East (N. Virginia)", "us-east-1"),
            ("prod-euc1", "eu-central-1"),
            ("APNE2", "ap-northeast-2"),
            ("aps1", "ap-south-1"),
            ("usw2", "us-west-2"),
            ("login.mypurecloud.de", "mypurecloud.de"),
        ] {
            let credential = format!("provider = \"genesys\"\nregion = \"{written}\"");
            let [problem] = &said(&credential, "region", "c")[..] else { panic!("{written}") };
            assert!(problem.contains(&format!("did you mean \"{meant}\"?")), "{written}: {problem}");
        }
        for (place, aws) in PLACES {
            assert!(REGIONS.iter().any(|(_, known)| *known == aws), "{place}");
        }
        let [problem] = &said("provider = \"genesys\"\nregion = \"moon\"", "region", "c")[..] else {
            panic!()
        };
        assert!(problem.contains("write one of: "), "{problem}");
    }

    #[test]
    fn an_upstream_by_region_needs_a_credential_with_a_region() {
        let url = "token_url = \"https://as.example.com/t\"";
        let without = format!("provider = \"genesys\"\n{url}");
        for (credential, name) in [(url, "c"), (&without, "c"), (url, "none")] {
            let problems = read(credential, "region", name).unwrap_err().to_string();
            assert!(
                problems.contains("`upstream = \"region\"` needs a credential with a region"),
                "{problems}"
            );
            assert!(problems.contains("write the address of the API"), "{problems}");
        }
        assert_eq!(said(url, "region", "other").len(), 1);
    }

    #[test]
    fn an_api_in_another_cloud_than_the_credential_causes_a_warning() {
        for (credential, upstream, expected) in [
            (
                "provider = \"genesys\"\nregion = \"mypurecloud.ie\"",
                "https://api.mypurecloud.com",
                "the API is in mypurecloud.com of Genesys Cloud, and the tokens of the credential `c` are from \
                 mypurecloud.ie of Genesys Cloud: write upstream = \"region\"",
            ),
            (
                "provider = \"genesys\"\nregion = \"us-east-1\"",
                "https://API.mypurecloud.com.au/api",
                "the API is in mypurecloud.com.au",
            ),
            (
                "provider = \"genesys\"\nregion = \"eu-west-2\"\ntoken_url = \"https://gateway.example.com/t\"",
                "https://api.euc2.pure.cloud",
                "the API is in euc2.pure.cloud",
            ),
            (
                "token_url = \"https://login.mypurecloud.de/oauth/token\"",
                "https://api.mypurecloud.jp",
                "the API of mypurecloud.de is https://api.mypurecloud.de",
            ),
            (
                "provider = \"genesys\"\nregion = \"mypurecloud.de\"",
                "https://login.mypurecloud.de",
                "this is the host for logins, not for the API: write upstream = \"https://api.mypurecloud.de\"",
            ),
            (
                &format!("{CXONE}\"https://cxone.niceincontact.com\""),
                "https://api-au.nicecxone-sov1.au",
                "from niceincontact.com of NICE CXone: write upstream = \"discover\"",
            ),
            (
                &format!("{CXONE}\"https://nicecxone-fed.com\""),
                "https://api-na1.niceincontact.com",
                "the API is in niceincontact.com of NICE CXone",
            ),
            (
                "token_url = \"https://na1.nice-incontact.com/authentication/v1/token/access-key\"",
                "https://api-eu1.niceincontact.com",
                "the API is in the area eu1, and the tokens of the credential `c` are from na1",
            ),
            (
                &format!("{CXONE}\"https://cxone.niceincontact.com\""),
                "https://api.mypurecloud.com",
                "the API is in mypurecloud.com of Genesys Cloud",
            ),
        ] {
            let [problem] = &said(credential, upstream, "c")[..] else {
                panic!("{:?}", said(credential, upstream, "c"))
            };
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn a_token_endpoint_in_another_region_causes_a_warning() {
        let own = "provider = \"genesys\"\nregion = \"mypurecloud.ie\"\ntoken_url = \"https://login.mypurecloud.de/oauth/token\"";
        let [problem] = &said(own, "region", "c")[..] else { panic!("{:?}", said(own, "region", "c")) };
        assert!(problem.starts_with("`token_url` is in the region mypurecloud.de"), "{problem}");
    }

    #[test]
    fn other_apis_cause_no_warning() {
        for (credential, upstream) in [
            ("provider = \"genesys\"\nregion = \"eu-west-1\"", "https://api.mypurecloud.ie"),
            ("provider = \"genesys\"\nregion = \"mypurecloud.ie\"", "https://gateway.example.com"),
            ("provider = \"genesys\"\nregion = \"mypurecloud.ie\"", "https://api.notmypurecloud.com"),
            (&format!("{CXONE}\"https://cxone.niceincontact.com\""), "https://api-na1.niceincontact.com"),
            (&format!("{CXONE}\"https://cxone-gov.niceincontact.com\""), "https://api-c1.niceincontact.com"),
            (
                "token_url = \"https://na1.nice-incontact.com/authentication/v1/token/access-key\"",
                "https://api-na1.niceincontact.com",
            ),
            ("token_url = \"https://as.example.com/t\"", "https://api.mypurecloud.ie"),
        ] {
            assert_eq!(said(credential, upstream, "c"), [""; 0], "{credential} {upstream}");
        }
    }
}
