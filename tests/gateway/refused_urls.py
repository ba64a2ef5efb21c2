"""URLs that must lead nowhere while every setting is at its default, apart from `fetch_urls`."""

# Names that the resolver of the test knows, and what it says they stand for.
NAMES: dict[str, list[list[str]]] = {
    "loopback.test": [["127.0.0.1"]],
    "private.test": [["10.1.2.3"]],
    "metadata.test": [["169.254.169.254"]],
    "mixed.test": [["93.184.215.14", "127.0.0.1"]],
    "mixed-v6.test": [["93.184.215.14", "::1"]],
    "mapped.test": [["::ffff:169.254.169.254"]],
    "scoped.test": [["fe80::1%eth0"]],
    "nat64.test": [["64:ff9b::a00:1"]],
    "ula.test": [["fd12:3456::1"]],
    "nonsense.test": [["not an address"]],
    "empty.test": [[]],
    "127.0.0.1.nip.test": [["127.0.0.1"]],
}

SCHEMES = [
    "file:///etc/passwd",
    "ftp://example.com/a.png",
    "gopher://127.0.0.1:6379/_INFO",
    "dict://127.0.0.1:11211/stat",
    "ldap://example.com/",
    "javascript:alert(1)",
    "jar:http://example.com/a.zip!/b",
    "unix:/var/run/docker.sock",
    "http:example.com/a.png",
    "http:/example.com/a.png",
    "http:///example.com/a.png",
    "https:",
    "http\u017f://example.com/a.png",  # a long s, which is an s where case is passed over
    " http://example.com/a.png",
    "ht\ntp://example.com/a.png",
]

LOOPBACK = [
    "http://127.0.0.1/",
    "http://127.0.0.1:80/a.png",
    "https://127.0.0.1/",
    "http://127.1.2.3/",
    "http://localhost/",  # the resolver of the test knows no such name
    "http://0.0.0.0/",
    "http://0/",
    "http://127.1/",  # short, as inet_aton reads it
    "http://127.0.1/",
    "http://2130706433/",  # decimal
    "http://0x7f000001/",  # hexadecimal
    "http://0x7f.0.0.1/",
    "http://0X7F.0X0.0X0.0X1/",
    "http://017700000001/",  # octal
    "http://0177.0.0.1/",
    "http://0177.0.0.0x1/",
    "http://127.0.0.01/",
    "http://127.0.0.1./",
    "http://4294967295/",
    "http://99999999999/",
    "http://256.256.256.256/",
    "http://[::1]/",
    "http://[::]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[0000:0000:0000:0000:0000:0000:0000:0001]/",
]

MAPPED = [
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[::127.0.0.1]/",  # IPv4-compatible
    "http://[::ffff:0:127.0.0.1]/",  # IPv4-translated
    "http://[64:ff9b::127.0.0.1]/",  # NAT64
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::a00:1]/",
    "http://[2002:7f00:1::]/",  # 6to4
    "http://[2002:a9fe:a9fe::1]/",
    "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",  # Teredo
]

RANGES = [
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.254/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/v2/credentials",
    "http://100.100.100.200/latest/meta-data/",
    "http://168.63.129.16/machine",
    "http://192.0.0.192/opc/v2/",
    "http://192.0.2.1/",
    "http://198.18.0.1/",
    "http://198.51.100.1/",
    "http://203.0.113.1/",
    "http://224.0.0.1/",
    "http://239.255.255.250/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fec0::1]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[fd20:ce::254]/computeMetadata/v1/",
    "http://[ff02::1]/",
    "http://[100::1]/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[5f00::1]/",
]

SPELLINGS = [
    "http://user@example.com/a.png",
    "http://user:password@example.com/a.png",
    "http://example.com@127.0.0.1/",
    "http://:@127.0.0.1/",
    "http://example.com:80@127.0.0.1/",
    "http://127.0.0.1\\@example.com/",
    "http://example.com\\@127.0.0.1/",
    "http:\\\\127.0.0.1\\",
    "http://127.0.0.1#@example.com/",
    "http://127.0.0.1?@example.com/",
    "http://127\u30020\u30020\u30021/",  # ideographic full stops
    "http://127\uff0e0\uff0e0\uff0e1/",  # fullwidth
    "http://127\uff610\uff610\uff611/",  # halfwidth
    "http://\uff11\uff12\uff17.0.0.1/",  # fullwidth digits
    "http://\u2460\u2461\u2466.0.0.1/",  # circled digits
    "http://loc\u0430lhost/",  # a Cyrillic a
    "http://boo\u212a.test/",  # a Kelvin sign, which is a k where case is passed over
    "http://127.0.0.1%2f@example.com/",
    "http://%31%32%37.0.0.1/",
    "http://example.com%00.127.0.0.1/",
    "http://exa mple.com/",
    "http://example.com\t/",
    "http://example.com\r\nHost: 127.0.0.1/",
    "http://[::1/",
    "http://::1/",
    "http://[127.0.0.1]/",
    "http://[v1.fe80::a]/",
    "http://example.com:/",
    "http://example.com:0/",
    "http://example.com:22/",
    "http://example.com:6379/",
    "http://example.com:8080/",
    "http://example.com:99999/",
    "http://example.com:080a/",
    "http://-example.com/",
    "http://example..com/",
    "http://.example.com/",
    "http://" + "a" * 64 + ".com/",
    "http://" + "a." * 130 + "com/",
    "http://example.com/" + "a" * 8_000,
]

REFUSED = [
    *SCHEMES,
    *LOOPBACK,
    *MAPPED,
    *RANGES,
    *SPELLINGS,
    *(f"http://{name}/a.png" for name in NAMES),
    "http://no-such-name.test/a.png",
]
