import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { describe, it, type TestContext } from 'node:test';
import { renderRules } from '../../src/network/nftables.ts';
import { findForwardDrops, findNameDrops } from '../../src/preflight/firewall/drops.ts';
import { evaluatePacket, type Packet } from '../../src/preflight/firewall/evaluate.ts';
import { parseIptablesSave } from '../../src/preflight/firewall/legacy.ts';
import { parseNftRuleset, type Ruleset } from '../../src/preflight/firewall/ruleset.ts';

const PATHS = { ownTable: 'banger', pool: '172.30.0.0/16', uplink: 'eth0', uid: 1000 };

const NAMES = { ...PATHS, port: 42_053 };

const FROM_VM: Packet = {
  hook: 'forward',
  protocol: 'tcp',
  port: 47_113,
  translated: false,
  from: 'bgr-00000000',
  to: 'eth0',
  source: '172.30.0.2',
  destination: undefined,
  state: 'new',
};

// rule sets written by the real programs: firewalld 1.3.3, ufw 0.36.2, iptables 1.8.9 (Docker 28's rules)
describe('rules of others', () => {
  const dropping: [string, string, RegExp][] = [
    [
      'docker.nft-json',
      'Docker',
      /^sudo iptables -I DOCKER-USER -i bgr-\+ -j ACCEPT && sudo iptables -I DOCKER-USER -o bgr-\+/,
    ],
    ['docker.iptables-save', 'Docker', /^sudo iptables-legacy -I DOCKER-USER/],
    ['ufw.nft-json', 'ufw', /^sudo ufw route allow in on bgr-\+ && sudo ufw route allow out on bgr-\+$/],
    ['ufw.iptables-save', 'ufw', /^sudo ufw route allow/],
    [
      'firewalld.nft-json',
      'firewalld',
      /^sudo firewall-cmd --permanent --zone=trusted --add-source=172\.30\.0\.0\/16 && /,
    ],
  ];
  for (const [file, culprit, fix] of dropping) {
    it(`are found to drop packets of VMs, and named: ${file}`, async () => {
      const [drop, ...more] = findForwardDrops([await fixture(file)], PATHS);
      assert.equal(drop?.culprit, culprit);
      assert.equal(drop?.packets, 'from VMs to eth0');
      assert.match(drop?.fix ?? '', fix);
      assert.deepEqual(more, []);
    });
  }

  const lettingThrough = [
    'docker-let-through.nft-json',
    'docker-let-through.iptables-save',
    'ufw-let-through.nft-json',
    'ufw-let-through.iptables-save',
    'firewalld-let-through.nft-json',
  ];
  for (const file of lettingThrough) {
    it(`let them through after the command that is named: ${file}`, async () => {
      assert.deepEqual(findForwardDrops([await fixture(file)], PATHS), []);
    });
  }

  for (const file of ['ufw.nft-json', 'ufw.iptables-save']) {
    it(`are found to drop what VMs ask for names: ${file}`, async () => {
      const [drop, ...more] = findNameDrops([await fixture(file)], NAMES);
      assert.equal(drop?.culprit, 'ufw');
      assert.equal(drop?.packets, 'by which VMs ask for names');
      assert.equal(drop?.fix, 'sudo ufw allow in on bgr-+ to any port 42053');
      assert.deepEqual(more, []);
    });
  }

  for (const file of ['docker.nft-json', 'docker.iptables-save', 'firewalld.nft-json', 'ufw-let-through.nft-json']) {
    it(`let VMs ask for names: ${file}`, async () => {
      assert.deepEqual(findNameDrops([await fixture(file)], NAMES), []);
    });
  }

  it('drop nothing where there are none', () => {
    const none = parseNftRuleset('{"nftables": [{"metainfo": {}}]}');
    assert.deepEqual(findForwardDrops([none], PATHS), []);
    assert.deepEqual(findNameDrops([none], NAMES), []);
  });
});

describe('rules that nft has loaded', () => {
  const verdicts: [string, string, 'accept' | 'drop' | 'unknown'][] = [
    ['a policy', 'policy drop;', 'drop'],
    ['an open policy', 'policy accept;', 'accept'],
    ['a rule for all taps', 'policy drop; iifname "bgr-*" accept', 'accept'],
    ['a rule for another device', 'policy drop; iifname "docker0" accept', 'drop'],
    ['a rule for all but another device', 'policy drop; iifname != "docker0" accept', 'accept'],
    ['a set of devices', 'policy drop; iifname { "eth1", "bgr-00000000" } accept', 'accept'],
    ['a named set of ranges', 'policy drop; ip saddr @inside accept', 'accept'],
    ['a range that is not ours', 'policy drop; ip saddr 192.168.0.0/16 accept', 'drop'],
    ['another protocol', 'policy drop; udp dport 53 accept', 'drop'],
    ['another port', 'policy drop; tcp dport 1-1024 accept', 'drop'],
    ['replies only', 'policy drop; ct state established,related accept', 'drop'],
    ['a chain that accepts', 'policy drop; jump other', 'accept'],
    ['a chain it never comes back from', 'policy accept; goto none; accept', 'accept'],
    ['a verdict map', 'policy drop; iifname vmap { "eth9" : drop, "bgr-00000000" : jump other }', 'accept'],
    ['a refusal at the end', 'policy accept; reject', 'drop'],
    ['a limit nobody can know', 'policy drop; limit rate 1/second accept', 'unknown'],
    ['IPv6', 'policy drop; meta nfproto ipv6 accept', 'drop'],
  ];
  for (const [what, rules, expected] of verdicts) {
    it(`are judged by what they say: ${what}`, (t) => {
      const ruleset = loaded(t, rulesText(rules));
      if (ruleset) assert.equal(evaluatePacket(ruleset, FROM_VM, 'banger').verdict, expected);
    });
  }

  it('leave the table of this banger out: what it drops is meant', (t) => {
    const text = renderRules({ table: 'banger', members: [], vmToVm: false });
    const ruleset = loaded(
      t,
      `${text}\ntable inet banger { chain no { type filter hook forward priority 0; policy drop; }; }`,
    );
    if (ruleset) assert.equal(evaluatePacket(ruleset, FROM_VM, 'banger').verdict, 'accept');
  });

  it('let packets through once the command for an unknown chain was run', (t) => {
    const text = rulesText('policy drop;');
    const before = loaded(t, text);
    if (!before) return;
    const fix = findForwardDrops([before], { ...PATHS, uid: 0 })[0]?.fix ?? '';
    assert.match(fix, /^nft 'insert rule inet others forward iifname "bgr-\*" accept' && nft /);
    const after = loaded(t, text, fix);
    assert.deepEqual(after && findForwardDrops([after], PATHS), []);
  });

  it('that refuse what comes in let lookups through once the command was run', (t) => {
    const text =
      'table inet own { chain in { type filter hook input priority 0; policy drop; iifname "lo" accept; }; }';
    const before = loaded(t, text);
    if (!before) return;
    const [drop, ...more] = findNameDrops([before], { ...NAMES, uid: 0 });
    assert.equal(drop?.culprit, 'the nftables chain inet own in');
    assert.deepEqual(more, []);
    const after = loaded(t, text, drop?.fix);
    assert.deepEqual(after && findNameDrops([after], NAMES), []);
    // what was translated may be let in as such
    const translated = loaded(t, text.replace('iifname "lo"', 'ct status dnat'));
    assert.deepEqual(translated && findNameDrops([translated], NAMES), []);
  });

  it('are followed in loops no further than the kernel would', () => {
    const chain = { family: 'inet', table: 't', hook: undefined, policy: 'accept' as const };
    const ruleset: Ruleset = {
      chains: [
        { ...chain, name: 'a', hook: 'forward', rules: [[{ jump: { target: 'b' } }]] },
        { ...chain, name: 'b', rules: [[{ jump: { target: 'b' } }]] },
      ],
      sets: new Map(),
      backend: 'nftables',
    };
    assert.equal(evaluatePacket(ruleset, FROM_VM, 'banger').verdict, 'accept');
  });
});

async function fixture(name: string): Promise<Ruleset> {
  const text = await readFile(new URL(`fixtures/${name}`, import.meta.url), 'utf8');
  return name.endsWith('.nft-json') ? parseNftRuleset(text) : parseIptablesSave(text);
}

function rulesText(rules: string): string {
  return `table inet others {
  set inside { type ipv4_addr; flags interval; elements = { 172.30.0.0/16 } }
  chain none { }
  chain other { iifname "bgr-*" accept; }
  chain forward { type filter hook forward priority 0; ${rules}
  }
}
`;
}

/** What nft lists after loading a text in a network namespace of its own; skips the test where none can be made. */
function loaded(t: TestContext, text: string, then = 'true'): Ruleset | undefined {
  const script = `nft -f - && { ${then}; } && nft -j list ruleset`;
  const namespace = process.geteuid?.() === 0 ? ['--net'] : ['--user', '--map-root-user', '--net'];
  try {
    execFileSync('unshare', [...namespace, '--', 'nft', 'list', 'tables'], { stdio: 'pipe' });
  } catch (error) {
    t.skip(`no network namespace with nft here: ${error instanceof Error ? error.message.split('\n')[0] : error}`);
    return undefined;
  }
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
  return parseNftRuleset(
    execFileSync('unshare', [...namespace, '--', 'sh', '-c', script], { input: text, encoding: 'utf8', env }),
  );
}
