//! Keys and signatures that aws-lc-rs does not make, made with openssl.

pub(crate) const RSA_1024_PEM: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCgUrkxjaWtynvhBCEUoYdqXtjt
Iew+Koh/O4Winda1TCw4K59Zc+Y5y37xXyHpOQIsR3PMtZ4rkjfuC5dD4upxjY7t
neF0bPu+a2inAruupZIGYs/cp32t83z7Cnrot0IlKoLXRi5UyDJH23bqGJZAMo7y
0O3sUbbpgJTLsjySwQIDAQAB
-----END PUBLIC KEY-----
";

pub(crate) const SECP256K1_PEM: &str = "-----BEGIN PUBLIC KEY-----
MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEtNBk/6wqTWPYPb8w2w/GfklpITn82Sk+
BinMxge/uFBGkAnIrENavUkAPv4Byb9JOLvusnEHkZkI3rW70+FOaA==
-----END PUBLIC KEY-----
";

pub(crate) const X25519_PEM: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VuAyEA37wprjz+rzLF7/RuWqU2HNvJBoexZBJtyiA38EGspns=
-----END PUBLIC KEY-----
";

pub(crate) const ED448_PEM: &str = "-----BEGIN PUBLIC KEY-----
MEMwBQYDK2VxAzoAx3BpMba5JkJNHcmbFjtlshl+12QqcV8r9jXHj7FYdHnlrsLs
GVv3blriAkpOG5DnBErF6H5BZfQA
-----END PUBLIC KEY-----
";

/// Of a P-256 key.
pub(crate) const CERTIFICATE_PEM: &str = "-----BEGIN CERTIFICATE-----
MIIBbTCCAROgAwIBAgIUbiyHpjvPPUtjTgbE5MPiNQOClRIwCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBeDAeFw0yNjExMjQyMTQyNDBaFw0zNjExMjEyMTQyNDBaMAwx
CjAIBgNVBAMMAXgwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQjYOnLAeStYwju
pCy8uk8wlfPXXg89b9ftsvchPEFUmPdPL2J9zR9xv4s9HlJsYanBjDkS45bJMCsQ
Ol7+U6P0o1MwUTAdBgNVHQ4EFgQUR1cX9kzJsNCvQ6VqKsJhVonWOIUwHwYDVR0j
BBgwFoAUR1cX9kzJsNCvQ6VqKsJhVonWOIUwDwYDVR0TAQH/BAUwAwEB/zAKBggq
hkjOPQQDAgNIADBFAiAkOMDP5wpt/+q/Wsml/OmPxpZgt3TEX6FLFjcIxNrOUwIh
APl5Q2wdMUpTZGob1JquylwpiGot/kfwGHXJadZYDZSt
-----END CERTIFICATE-----
";

/// The modulus of the key behind [`PSS_SIGNATURES`].
pub(crate) const PSS_MODULUS: &str = "\
sa9gLzKGFmS1nJ34mTs2-8Y3SMRRuoMdVGnIPnqx64rOXKTZvadRM60qBDX01upKBylYvPy9dLDFmUy51N18DQm3Al8E6b\
NmcQhEaWtaePaX700aBMxwcqbwmpb87TNEGPftTMXX6kTyl7UeCJWCJ_LcBaiR7DxSfy0HY2f3Tldxtt7LGGh2ShPUt5xA\
FLxWYMD_7sisaCgCK965LPFdTv8p8lFy4neRWFm1Mn1SBGU61D6r4K1aeoSzXy_xFO1jabKxV7QPMn3vLF9PW5vLWlLTS3\
64LcpSNkpYA2RIE4OS4ywyqbYrqasuiiEl3XexeKd87jfmBh_1kcqvBm6ZtQ";

/// Header and claims of a good token.
pub(crate) const PS256_SIGNED: &str = "\
eyJhbGciOiJQUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoid\
XNlci0xIiwiYXVkIjoiaHR0cHM6Ly9hcGkuZXhhbXBsZSIsImNsaWVudF9pZCI6IndlYiIsImp0aSI6InRva2VuLTEiLCJ\
pYXQiOjE2OTk5OTk5OTAsImV4cCI6MTcwMDAwMDYwMH0";

/// Signatures over [`PS256_SIGNED`] that are as RFC 7518 §3.5 asks for, or almost: a salt of 32
/// octets, then salts of 20, 0, 64 and the most octets, then SHA-1 in the mask.
pub(crate) const PSS_SIGNATURES: [&str; 6] = [
    "\
WzDSrr_N5UJqwZ62i4r_PWABl1cwJt3qf5KOjCjCMncOY__qen4t9UlMWxop65iqv_t5A50MMthvPWPZ3q7Uc7AjVpwF0q\
U9KrhMc0W9iV_ifXDJ4kNmzX0W3W40FpivHaUv7Gadj2EhUdLBBHo_gAwKAEhnRKPBbLeSLMKcFQAU_zpS_5ViLiSlJs6v\
QjXV_uDg9hM8sy4A13nfel-zYvjX2GrB1jqT4bpEExJGFu5ebNPLJjMEKBUSHgRayEvz3juO5U4Yjrc7C5ckXSa9P_vXef\
IOvwGlTqF4qYYHS8NxU5DeJxvwA5eFg-qtKwoFTMT0ghJ--qwdUxMQhRuEjw",
    "\
ftrM-NirfcFtO1SI5m1e2tO5LJnliqicGsJDbwz8gaepffmkYYjRHsyJnW0Al_evUgoF-O8iTZXbohRx1-XJ5CxDr5PeCP\
HXUxCl1kuUr68kONrS-pmAz2q5FhTsxG1JfBQUny80eJVqODi1iPNshwGWXrOGuLm7W7yyp7Wd4idywNynzILNajYIF-xt\
VcJ8_5UW8yCdhnwA3bl74fsAgUKgIeSIsKlW3E2n-yz1cL9Rc9Fb_OGGk_2FuQbyiCNp_Tdc7Jk5FaiBwKIh-XHdIA6byM\
nRf8B1QpsHlPinGK4jeYQzYM2GMidETYsLZ-HSgqOUiS36Vka92xt4t-Szjg",
    "\
KW4834TL5pW1ueHYf4Hhm3D0tsf6KgIKzltPWgK5SnqoMzXQpS3iF6rWCGoHkLYNhb3VA_6tcf2KegHXfq-qSIWONb10Dm\
5n1Wh_QJ4pEu1kV9oIs2jQP4hq3r3IWMwyt-A2LMtIrBrwtU6a01rmC488rhMshNfJB3GGlr-UfsirE_embuus6cNXty1l\
_-A_LoEnnOPpxHeMSqOyOvNg4FcX_yBgZOUJXt7IbsFfcuteHEcrXB0_6Vi7YRmNiUkrqeEj-Rxiv2tcmi_T4-GXV1TQOi\
K0YvvFBcy7Ybgsk14g9p3GCiXlI90GaVbc75flCtQntck4A-JPrRY5yvZxsQ",
    "\
B4wQiOoGp789uaOduYq_C6rxCqE2vJKSVVoncs6x5FLnQZtWS4eU2pgt7JYmwTdOBQIiHEvqwJ8dmYc44QcPFuUf6VGMxt\
qJ4vBamPoUcnZc7TbIN2cohMwY08UanTvPjpIsPZ3uI3IP-bbfx8kOq4mmVCgUuVzMAaLjSXpRoW_RF3c5a8k6W3vSUEUx\
pQ75bnRwvyq49IeiPorvxXzQv6XhNNjSlhd_QO6pFueLFvCm8hFP0kUw-mRpEEVjU3poVsIlMUVYmcq6poz9MBat7N5N1t\
Ern91Ef4AkAlQlSETGjrBZ0O9gDJFeaYse0dPFYgFzGgWop-TLRJrJ9vQ_3w",
    "\
ff1IcfWulHCzqMGxNRfm6otOv2EcK4sqSBw6BfUSz7g_V5fqrvbOylp3HbjSrCtIvR9tXaO9FRs6DB1G-2aV3vzsC6ba01\
Ge5fp4anz-juDyBfBcTe1DLjmX8Qcs1I7R1QJBFKGBEpggpxahBtASjgrwjftrHNGq053VuBFoESrLTVgmkR-Y4ITGLVbq\
XC-d66d6asCV1yKCd2v4ps4kUDUSdOFRegXgC1JomfInW4K_T1wfXejad4zWjLjRaIpZclEMGEAuKQVOVseFmi1sE-_DIR\
buwbkJ2MeKtQRsaCNzQfWXVMa_PEXgdJqb9M_iBg70X1KjlTug3NOC5aRiwg",
    "\
lIp4DdyPixqlesYsc3e-AuGaNZWEcXZhxzj3IBBd1oXu3fxA6I0vCW07ZlmA3dS9eYSLNc1lpUjDOSp-U8TWd8tGOksCq8\
bNu3sgNxLoOrX7hjatjt0-SVfe2wmKS40SYrl1o6Sr577evOo3GGbQnSivKyrjE7bBjewkvXT4JNP_EL3MF_HUUsWeK--e\
XA7rKWhHtpEbcbedZI1qJwYmC16ybceB0J_uolkEHkhgQNaX6lHUMgBzPXnWln2c4di-BWe_L-TI1CeB_Cf0t4pPjAr4IR\
B-jnUgPOgK65olBjZjl5bjhMtesuTQbannKOWDy8pvLgcNLkCrw5nf0wDBWw",
];

/// The modulus of an RSA key whose exponent is 3.
pub(crate) const E3_MODULUS: &str = "\
zTfLdNnTMnnn_BcQQZ5ulWLbMEm8Jf_I29sKL4SNewwcfe4759Ec5d1zvEG_DUtW6acRnFiID_kQybHhLSq_HbeUYxoYxy\
TR-xBobxHJfpuoXOs45Te4TozJZ32WSuaHYULjinkkZh76wKUI4LSiRSdvRRTgOdtzRzAktyl1bimLthFlGJWWsLlrrFq7\
Y96LmzMO4ds-q9YipsNv_HWFEbb_5EAqHJn7EwLfggCbXScz5SLpByKD3k55MIRnYts-GSuCKZY91gtCMFmezNX-IOHU4J\
xX-K3gvOKl0m1a80C6ez-lJnqc_r_pZH1NVdl9fYjei3UZiZD3VIMRD71Vuw";

/// A token whose signature is a cube root, made without the private key: padding, digest and then
/// whatever makes the root come out (Bleichenbacher 2006).
pub(crate) const E3_FORGED: &str = "\
eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoid\
XNlci0xIiwiYXVkIjoiaHR0cHM6Ly9hcGkuZXhhbXBsZSIsImNsaWVudF9pZCI6IndlYiIsImp0aSI6InRva2VuLTEiLCJ\
pYXQiOjE2OTk5OTk5OTAsImV4cCI6MTcwMDAwMDYwMH0.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAMsv9Snrce\
QVYPXZ1IPUWQHWRdtN4JvLvY649x6xTvERtkm0aer_2yxpa_yXNi9DRRKpF1-5_wEUpTYO5jQPk8pd2W54xXDNgJZlTy9D\
i9bgislagLQ";
