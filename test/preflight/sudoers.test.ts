import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { hostMacFor, macFor } from '../../src/core/vm.ts';
import { applyRules, readTable } from '../../src/network/nftables.ts';
import { addPoolRoute, deletePoolRoute } from '../../src/network/routes.ts';
import { createTap } from '../../src/network/tap.ts';
import {
  EQUAL_TO_ROOT,
  knowsRegularExpressions,
  renderSudoers,
  type SudoersRequest,
} from '../../src/preflight/sudoers.ts';
import { findProgram } from '../../src/system/host-facts.ts';
import type { Privileged } from '../../src/system/privilege.ts';
import { lowerTo, PRIVILEGED_COMMANDS } from '../../src/system/privileged-commands.ts';
import { tempDir } from '../support/temp-dir.ts';

const REQUEST: SudoersRequest = {
  user: 'ann',
  owner: { uid: 1000, gid: 1001, kvmGroup: 108 },
  lowerer: '/usr/bin/setpriv',
  programs: {
    ip: '/usr/sbin/ip',
    nft: '/usr/sbin/nft',
    sysctl: '/usr/sbin/sysctl',
    firecracker: '/opt/fire cracker/firecracker',
    mount: '/usr/bin/mount',
    umount: '/usr/bin/umount',
    losetup: '/usr/sbin/losetup',
    xfs_growfs: '/usr/sbin/xfs_growfs',
    kill: '/usr/bin/kill',
  },
  pool: '172.30.0.0/16',
  table: 'banger',
  uplinks: ['eth0', 'wlan0'],
  run: '/run/user/1000/banger',
  store: '/home/ann/My VMs: all, of=them',
  cache: '/home/ann/.cache/banger',
  state: '/home/ann/.local/state/banger',
  regularExpressions: true,
};

describe('renderSudoers', () => {
  for (const regularExpressions of [true, false]) {
    const form = regularExpressions ? 'regular expressions' : 'globs';
    it(`writes rules that visudo accepts, with ${form}`, async (t) => {
      const visudo = await findProgram('visudo', { PATH: `${process.env.PATH}:/usr/sbin:/sbin` });
      if (!visudo.found) return t.skip(`visudo is not installed (looked ${visudo.why})`);
      const file = join(await tempDir(t), 'banger');
      await writeFile(file, withStoreImage(renderSudoers({ ...REQUEST, regularExpressions })), { mode: 0o440 });
      assert.match(execFileSync(visudo.path, ['-c', '-f', file], { encoding: 'utf8' }), /parsed OK/);
    });

    it(`writes no wildcard that matches more than one word, with ${form}`, () => {
      const text = withStoreImage(renderSudoers({ ...REQUEST, regularExpressions }));
      const rules = text.split('\n').filter((line) => line.startsWith('  '));
      assert.ok(rules.length >= PRIVILEGED_COMMANDS.length);
      for (const rule of rules) assert.doesNotMatch(rule.replace(/\\./g, ''), /\*|\.[*+]/);
    });
  }

  it('has a rule for every command of the table, anchored at both ends', () => {
    const rules = withStoreImage(renderSudoers(REQUEST))
      .split('\n')
      .filter((line) => line.startsWith('  '));
    assert.equal(rules.length, PRIVILEGED_COMMANDS.length);
    for (const rule of rules) assert.match(rule, / \^.*\$(, \\)?$/);
  });

  const cases: [string, string, boolean][] = [
    ['ip', 'tuntap add dev bgr-0a1b2c3d mode tap user 1000', true],
    ['ip', 'tuntap add dev eth0 mode tap user 1000', false],
    ['ip', 'tuntap add dev bgr-0a1b2c3d mode tap user 0', false],
    ['ip', 'link set dev bgr-0a1b2c3d address 02:00:ac:1e:00:07 mtu 1500 up', true],
    ['ip', 'link set dev bgr-0a1b2c3d address 02:00:ac:1e:00:07 mtu 1500 up netns 1', false],
    ['ip', 'route replace 172.30.4.7/32 dev bgr-0a1b2c3d src 172.30.0.1', true],
    ['ip', 'route replace 8.8.8.8/32 dev bgr-0a1b2c3d src 172.30.0.1', false],
    ['ip', 'neighbour replace 172.30.4.7 lladdr 06:00:ac:1e:04:07 dev bgr-0a1b2c3d nud permanent', true],
    ['ip', 'route replace unreachable 172.30.0.0/16 proto 119', true],
    ['ip', 'route delete unreachable 0.0.0.0/0 proto 119', false],
    ['nft', '-f -', true],
    ['nft', 'flush ruleset', false],
    ['sysctl', '-q -w net/ipv4/conf/bgr-0a1b2c3d/forwarding=1', true],
    ['sysctl', '-q -w net/ipv4/conf/eth0/forwarding=0', true],
    ['sysctl', '-q -w net/ipv4/conf/eth0/forwarding=2', true],
    ['ip', 'rule add to 172.30.0.0/16 lookup main priority 1 protocol 119', true],
    ['ip', 'rule add to 0.0.0.0/0 lookup main priority 1 protocol 119', false],
    ['sysctl', '-q -w net/ipv4/conf/eth0/forwarding=1 kernel.core_pattern=|/tmp/x', false],
    ['sysctl', '-q -w kernel.core_pattern=|/tmp/x', false],
  ];
  for (const [program, args, allowed] of cases) {
    it(`${allowed ? 'allows' : 'does not allow'} ${program} ${args}`, () => {
      assert.equal(matchesRule(renderSudoers(REQUEST), program, args), allowed);
      assert.equal(matchesRule(renderSudoers({ ...REQUEST, regularExpressions: false }), program, args), allowed);
    });
  }

  it('allows every command that the network room runs', async () => {
    const commands: string[] = [];
    const privileged: Privileged = {
      argv: async (argv) => argv,
      kill: async () => assert.fail('nothing is ended'),
      run: async (argv) => {
        commands.push(argv.join(' '));
        return { exitCode: 0, stdout: '{"nftables": []}', stderr: '' };
      },
    };
    const tap = { name: 'bgr-0a1b2c3d', address: '172.30.0.7', gateway: '172.30.0.1', mtu: 1500, ownerUid: 1000 };
    await createTap(privileged, 'ip', { ...tap, mac: macFor(tap.address), hostMac: hostMacFor(tap.address) });
    await addPoolRoute(privileged, 'ip', '172.30.0.0/16');
    await deletePoolRoute(privileged, 'ip', '172.30.0.0/16');
    await applyRules(privileged, 'nft', { table: 'banger', members: [], vmToVm: true });
    await readTable(privileged, 'nft', 'banger');
    assert.ok(commands.length >= 10);
    for (const command of commands) {
      const [program = '', ...args] = command.split(' ');
      assert.ok(matchesRule(renderSudoers(REQUEST), program, args.join(' ')), command);
    }
  });

  it('leaves Firecracker out where the user may open /dev/kvm', () => {
    const text = renderSudoers({ ...REQUEST, owner: { ...REQUEST.owner, kvmGroup: undefined } });
    assert.doesNotMatch(text, /firecracker/i);
  });

  it('gives Firecracker the group of /dev/kvm and nothing else', () => {
    const rules = renderSudoers(REQUEST)
      .split('\n')
      .filter((line) => line.includes('firecracker'));
    assert.equal(rules.length, 2);
    const given = '--groups=108 --inh-caps=-all --ambient-caps=-all --bounding-set=-all --no-new-privs -- ';
    for (const rule of rules)
      assert.ok(rule.startsWith(`  /usr/bin/setpriv ^--reuid=1000 --regid=1001 ${given}`), rule);
  });

  it('has no default rule that leaves a program root, or able to become it', () => {
    for (const regularExpressions of [true, false]) {
      const text = renderSudoers({ ...REQUEST, regularExpressions });
      const [defaults = '', others = ''] = text.split(EQUAL_TO_ROOT);
      const rules = defaults.split('\n').filter((line) => line.startsWith('  '));
      assert.ok(rules.length > 15);
      const lowered = new RegExp(
        '^  /usr/bin/setpriv \\^?--reuid\\\\?=1000 --regid\\\\?=1001 --(clear-groups|groups\\\\?=108) ' +
          '--inh-caps\\\\?=-all(\\\\?,\\\\?\\+net_admin)? --ambient-caps\\\\?=-all(\\\\?,\\\\?\\+net_admin)? ' +
          '--bounding-set\\\\?=-all(\\\\?,\\\\?\\+net_admin)? --no-new-privs -- /',
      );
      for (const rule of rules) assert.match(rule, lowered);
      for (const line of others.split('\n').slice(1)) assert.match(line, /^#|^$/);
      assert.match(text, /^# EQUAL TO ROOT: who may run what follows can become root/m);
    }
  });

  it('lets a user mount the image of the store only where a person took the comment away', () => {
    const given = renderSudoers(REQUEST);
    assert.doesNotMatch(given.replace(/^#.*$/gm, ''), /mount|losetup|xfs_growfs/);
    const text = withStoreImage(given);
    assert.ok(matchesRule(text, 'losetup', '-c /dev/loop7'));
    assert.ok(!matchesRule(text, 'losetup', '-c /dev/loop7 -d /dev/loop8'));
    assert.match(text, /^ann ALL=\(root\) NOPASSWD: BANGER_1000_MOUNT, BANGER_1000_UMOUNT, /m);
  });

  it('names a user by number where the name means something in sudoers', () => {
    assert.match(renderSudoers({ ...REQUEST, user: 'ALL' }), /^#1000 ALL=\(root\) NOPASSWD: /m);
    assert.match(renderSudoers(REQUEST), /^ann ALL=\(root\) NOPASSWD: BANGER_1000_IP, /m);
  });
});

describe('knowsRegularExpressions', () => {
  it('is true from sudo 1.9.10 on', () => {
    const known = ['1.9.10', '1.9.13p3', '1.10.0', '2.0.1'].map((version) => `Sudo version ${version}\n`);
    assert.deepEqual(known.map(knowsRegularExpressions), [true, true, true, true]);
    const unknown = ['1.9.9', '1.8.31p2', '1.9.5p2'].map((version) => `Sudo version ${version}`);
    assert.deepEqual([...unknown, 'no sudo'].map(knowsRegularExpressions), [false, false, false, false]);
  });
});

/** The rules with those for the store's image, as a person would switch them on. */
function withStoreImage(sudoers: string): string {
  const [always = '', image = ''] = sudoers.split('if that is what you want.\n');
  return `${always}\n${image.replace(/^#/gm, '')}`;
}

/** Matches as sudo does: the whole argument text against a regular expression, or as a glob with classes only. */
function matchesRule(sudoers: string, program: string, args: string): boolean {
  const path = REQUEST.programs[program as keyof typeof REQUEST.programs];
  const right = PRIVILEGED_COMMANDS.find((command) => command.program === program)?.right ?? 'root';
  const [first, text] =
    right === 'root' ? [path, args] : [REQUEST.lowerer, [...lowerTo(right, REQUEST.owner), path, args].join(' ')];
  const rules = sudoers.split('\n').filter((line) => line.startsWith(`  ${first} `));
  assert.ok(rules.length > 0, `no rules for ${program}`);
  return rules.some((rule) => {
    const pattern = rule.replace(/,? ?\\?$/, '').slice(`  ${first} `.length);
    if (pattern.startsWith('^')) return new RegExp(pattern).test(text);
    const literal = pattern.replace(/\\(.)|([.+$^|(){}])/g, (_, escaped = '', plain = '') => `\\${escaped}${plain}`);
    return new RegExp(`^${literal}$`).test(text);
  });
}
