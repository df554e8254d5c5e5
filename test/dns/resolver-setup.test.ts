/** The changes to each resolver, word by word, and how they are applied and taken back. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';
import type { HostResolver } from '../../src/dns/resolver-detect.ts';
import {
  applyPlan,
  directFiles,
  isDone,
  isSetUp,
  planSetup,
  planUndo,
  privilegedFiles,
  proveLookup,
  renderPlan,
  renderScript,
  setUpResolver,
} from '../../src/dns/resolver-setup.ts';
import { scriptedRunner } from '../support/scripted-runner.ts';
import { tempDir } from '../support/temp-dir.ts';

const ROUTE = { zone: 'vm', reverseZones: ['30.172.in-addr.arpa'], address: '127.0.0.1', port: 42069 };
const BASE = {
  reason: 'It runs.',
  nameservers: ['127.0.0.1'],
  init: 'systemd',
  networkManager: false,
  networkd: false,
} as const;
const RESOLVED: HostResolver = { ...BASE, kind: 'systemd-resolved', systemdVersion: 252 };
const DELEGATING: HostResolver = { ...RESOLVED, systemdVersion: 258 };
const DNSMASQ: HostResolver = { ...BASE, kind: 'dnsmasq', configDir: '/etc/dnsmasq.d' };
const UNBOUND: HostResolver = { ...BASE, kind: 'unbound', configDir: '/etc/unbound/unbound.conf.d' };
const NETWORKMANAGER: HostResolver = { ...BASE, kind: 'networkmanager-dnsmasq', networkManager: true };
const ALL = [RESOLVED, DELEGATING, DNSMASQ, UNBOUND, NETWORKMANAGER];

function text(resolver: HostResolver): string {
  return renderPlan(planSetup(resolver, ROUTE));
}

/** Every command works. */
const willing = () =>
  scriptedRunner({ systemctl: {}, networkctl: {}, nmcli: {}, dnsmasq: {}, 'unbound-checkconf': {} });

describe('a setup plan', () => {
  it('for dnsmasq is a file of servers and a restart', () => {
    assert.equal(
      text(DNSMASQ),
      `dnsmasq will ask bangerd for names below vm.
write  /etc/dnsmasq.d/banger-vm.conf
       | # Written by "banger dns setup"; "banger dns setup --undo" removes it.
       | server=/vm/127.0.0.1#42069
       | server=/30.172.in-addr.arpa/127.0.0.1#42069
       | rebind-domain-ok=/vm/
run    dnsmasq --test --conf-file=/etc/dnsmasq.d/banger-vm.conf
run    systemctl restart dnsmasq
`,
    );
  });

  it("for NetworkManager's dnsmasq is the same file in its directory and a reload of DNS alone", () => {
    assert.match(text(NETWORKMANAGER), /^write {2}\/etc\/NetworkManager\/dnsmasq\.d\/banger-vm\.conf$/m);
    assert.match(text(NETWORKMANAGER), /^run {4}nmcli general reload dns-full$/m);
  });

  it('for unbound is a stub zone per zone', () => {
    assert.equal(
      text(UNBOUND),
      `unbound will ask bangerd for names below vm.
write  /etc/unbound/unbound.conf.d/banger-vm.conf
       | # Written by "banger dns setup"; "banger dns setup --undo" removes it.
       | server:
       |     # bangerd listens on loopback, which unbound does not ask unless it may
       |     do-not-query-localhost: no
       |     private-domain: "vm."
       |     domain-insecure: "vm."
       |     domain-insecure: "30.172.in-addr.arpa."
       |     local-zone: "30.172.in-addr.arpa." transparent
       | stub-zone:
       |     name: "vm."
       |     stub-addr: 127.0.0.1@42069
       |     stub-no-cache: yes
       | stub-zone:
       |     name: "30.172.in-addr.arpa."
       |     stub-addr: 127.0.0.1@42069
       |     stub-no-cache: yes
run    unbound-checkconf
run    systemctl restart unbound
`,
    );
  });

  it('for systemd-resolved before 258 is a link of its own, set up by a unit', () => {
    assert.equal(
      text(RESOLVED),
      `systemd-resolved will ask bangerd for names below vm, by a network link bgdns-vm of its own.
write  /etc/systemd/system/banger-vm-dns.service
       | # Written by "banger dns setup"; "banger dns setup --undo" removes it.
       | [Unit]
       | Description=Route for DNS names below vm to bangerd
       | After=systemd-resolved.service
       | PartOf=systemd-resolved.service
       | 
       | [Service]
       | Type=oneshot
       | RemainAfterExit=yes
       | ExecStartPre=-ip link add bgdns-vm type dummy
       | ExecStart=ip address replace 169.254.42.69/32 dev bgdns-vm
       | ExecStart=ip link set bgdns-vm up
       | ExecStart=resolvectl dns bgdns-vm 127.0.0.1:42069
       | ExecStart=resolvectl domain bgdns-vm ~vm ~30.172.in-addr.arpa
       | ExecStart=resolvectl default-route bgdns-vm no
       | ExecStart=resolvectl dnssec bgdns-vm no
       | ExecStart=resolvectl dnsovertls bgdns-vm no
       | ExecStart=resolvectl llmnr bgdns-vm no
       | ExecStart=resolvectl mdns bgdns-vm no
       | ExecStop=-ip link delete bgdns-vm
       | 
       | [Install]
       | WantedBy=multi-user.target systemd-resolved.service
run    systemctl daemon-reload
run    systemctl enable banger-vm-dns.service
run    systemctl restart banger-vm-dns.service
`,
    );
  });

  it('keeps systemd-networkd and NetworkManager off that link where they run', () => {
    const plan = text({ ...RESOLVED, networkd: true, networkManager: true });
    assert.match(
      plan,
      /write {2}\/etc\/systemd\/network\/10-banger-vm\.network\n[\s\S]*Name=bgdns-vm\n[\s\S]*Unmanaged=yes/,
    );
    assert.match(plan, /run {4}networkctl reload\n/);
    assert.match(
      plan,
      /write {2}\/etc\/NetworkManager\/conf\.d\/banger-vm\.conf\n[\s\S]*unmanaged-devices\+=interface-name:bgdns-vm/,
    );
    assert.match(plan, /run {4}nmcli general reload conf\n/);
  });

  it('for systemd-resolved from 258 on is a delegate', () => {
    assert.equal(
      text(DELEGATING),
      `systemd-resolved will ask bangerd for names below vm, by a delegate file.
write  /etc/systemd/dns-delegate.d/banger-vm.dns-delegate
       | # Written by "banger dns setup"; "banger dns setup --undo" removes it.
       | [Delegate]
       | DNS=127.0.0.1:42069
       | Domains=~vm ~30.172.in-addr.arpa
write  /etc/dnssec-trust-anchors.d/banger-vm.negative
       | ; Written by "banger dns setup"; "banger dns setup --undo" removes it.
       | vm
       | 30.172.in-addr.arpa
run    systemctl restart systemd-resolved.service
`,
    );
  });

  it('names files and link after the zone', () => {
    const plan = renderPlan(planSetup(RESOLVED, { ...ROUTE, zone: 'lab.internal' }));
    assert.match(plan, /\/etc\/systemd\/system\/banger-lab\.internal-dns\.service/);
    const link = /ip link add (\S+) type dummy/.exec(plan)?.[1] ?? '';
    assert.match(link, /^bgdns-[0-9a-f]{8}$/);
  });

  it('restarts services of other inits their way', () => {
    assert.match(text({ ...DNSMASQ, init: 'openrc' }), /run {4}rc-service dnsmasq restart/);
    assert.match(text({ ...UNBOUND, init: 'other' }), /run {4}service unbound restart/);
  });

  it('is refused with the way out where it can not work', () => {
    const refusals: [HostResolver, RegExp, RegExp][] = [
      [
        { ...BASE, kind: 'resolv-conf' },
        /no way to send one zone elsewhere\. Nothing was changed/,
        /apt install systemd-resolved/,
      ],
      [{ ...BASE, kind: 'resolv-conf', networkManager: true }, /resolv\.conf/, /dns=dnsmasq/],
      [
        { ...BASE, kind: 'unknown' },
        /Nothing was changed/,
        /127\.0\.0\.1 port 42069 for vm and 30\.172\.in-addr\.arpa/,
      ],
      [{ ...BASE, kind: 'dnsmasq' }, /not told to read any directory/, /conf-dir=\/etc\/dnsmasq\.d/],
      [{ ...BASE, kind: 'unbound' }, /not told to include any directory/, /include-toplevel/],
    ];
    for (const [resolver, message, hint] of refusals) {
      assert.throws(() => planSetup(resolver, ROUTE), { code: 'host_unprepared', message, hint });
    }
  });

  const systemdAnalyze = ['/usr/bin/systemd-analyze', '/bin/systemd-analyze'].find((path) => existsSync(path));
  it('has a unit that systemd understands', {
    skip: systemdAnalyze ? false : 'systemd-analyze is not installed',
  }, async (t) => {
    const root = await tempDir(t);
    const runner = willing();
    await setUpResolver({ root }, RESOLVED, ROUTE, { runner, files: directFiles(root) });
    const unit = join(root, '/etc/systemd/system/banger-vm-dns.service');
    const { stdout, stderr } = await promisify(execFile)(systemdAnalyze ?? '', ['verify', '--man=no', unit]).catch(
      (error: { stdout: string; stderr: string }) => error,
    );
    // programs and units this machine lacks are not the unit's fault
    const complaints = `${stdout}${stderr}`.split('\n').filter((line) => /banger-vm-dns\.service/.test(line));
    const ours = complaints.filter((line) => !/not executable|not found|Failed to locate|cannot be found/i.test(line));
    assert.deepEqual(ours, []);
  });
});

describe('a plan as a script', () => {
  it('does the same when a shell runs it, and stops at the first command that fails', async (t) => {
    const root = await tempDir(t);
    const content = '# one\nit\'s $HOME "and" `more`\n';
    const path = join(root, 'a dir', 'file');
    const script = renderScript({
      summary: 'For a test.',
      steps: [
        { do: 'write', path, content },
        { do: 'run', argv: ['false'], optional: true },
        { do: 'run', argv: ['touch', join(root, "it's there")] },
        { do: 'run', argv: ['false'] },
        { do: 'remove', path },
      ],
    });
    await assert.rejects(promisify(execFile)('sh', ['-c', script]));
    assert.equal(await readFile(path, 'utf8'), content);
    assert.equal((await stat(path)).mode & 0o777, 0o644);
    assert.ok(existsSync(join(root, "it's there")));
    const undo = renderScript({ summary: 'Back.', steps: [{ do: 'remove', path }] });
    await promisify(execFile)('sh', ['-c', undo]);
    assert.equal(existsSync(path), false);
  });

  it('is known to be done when every file is as the plan has it', async (t) => {
    const root = await tempDir(t);
    const plan = planSetup(DNSMASQ, ROUTE);
    assert.equal(await isDone({ root }, plan), false);
    await applyPlan(plan, { runner: willing(), files: directFiles(root) });
    assert.equal(await isDone({ root }, plan), true);
    assert.equal(await isDone({ root }, planSetup(DNSMASQ, { ...ROUTE, port: 1 })), false);
  });
});

describe('applying a plan', () => {
  it('writes files everybody can read and runs the commands after them', async (t) => {
    const root = await tempDir(t);
    for (const resolver of ALL) {
      const runner = willing();
      const seen: string[] = [];
      await setUpResolver({ root }, resolver, ROUTE, {
        runner,
        files: directFiles(root),
        onStep: (step) => seen.push(step.do),
      });
      const plan = planSetup(resolver, ROUTE);
      assert.deepEqual(
        seen,
        plan.steps.map((step) => step.do),
      );
      for (const step of plan.steps) {
        if (step.do !== 'write') continue;
        assert.equal(await readFile(join(root, step.path), 'utf8'), step.content);
        assert.equal((await stat(join(root, step.path))).mode & 0o777, 0o644);
      }
      assert.equal(await isSetUp({ root }, resolver, ROUTE), true);
    }
  });

  it('twice is like once', async (t) => {
    const root = await tempDir(t);
    const options = { runner: willing(), files: directFiles(root) };
    await setUpResolver({ root }, DNSMASQ, ROUTE, options);
    await setUpResolver({ root }, DNSMASQ, ROUTE, options);
    assert.deepEqual(await readdir(join(root, '/etc/dnsmasq.d')), ['banger-vm.conf']);
  });

  it('takes everything back when a step fails, and tells that step', async (t) => {
    const root = await tempDir(t);
    const runner = scriptedRunner({ 'unbound-checkconf': { exit: 1, stderr: 'syntax error' }, systemctl: {} });
    const setup = setUpResolver({ root }, UNBOUND, ROUTE, { runner, files: directFiles(root) });
    await assert.rejects(setup, { code: 'command_failed', message: /syntax error/ });
    assert.deepEqual(await readdir(join(root, UNBOUND.configDir ?? '')), []);
    assert.deepEqual(runner.calls, ['unbound-checkconf', 'systemctl restart unbound']);
  });

  it('goes through programs started as root where the daemon is not', async () => {
    const runner = scriptedRunner({ mkdir: {}, tee: {}, chmod: {}, rm: {} });
    const files = privilegedFiles(runner);
    await files.write('/etc/dnsmasq.d/banger-vm.conf', 'server=/vm/127.0.0.1#42069\n');
    await files.remove('/etc/dnsmasq.d/banger-vm.conf');
    assert.deepEqual(runner.calls, [
      'mkdir -p /etc/dnsmasq.d',
      'tee /etc/dnsmasq.d/banger-vm.conf',
      'chmod 0644 /etc/dnsmasq.d/banger-vm.conf',
      'rm -f /etc/dnsmasq.d/banger-vm.conf',
    ]);
    assert.equal(runner.inputs[1], 'server=/vm/127.0.0.1#42069\n');
  });
});

describe('undoing a setup', () => {
  it('removes what was written, whichever resolver runs by then', async (t) => {
    const root = await tempDir(t);
    for (const resolver of ALL)
      await setUpResolver({ root }, resolver, ROUTE, { runner: willing(), files: directFiles(root) });
    const runner = willing();
    const plan = await planUndo({ root }, { ...BASE, kind: 'resolv-conf' }, ROUTE);
    await applyPlan(plan, { runner, files: directFiles(root) });
    const left = await readdir(join(root, 'etc'), { recursive: true, withFileTypes: true });
    assert.deepEqual(
      left.filter((entry) => entry.isFile()),
      [],
    );
    assert.deepEqual(runner.calls, [
      'systemctl disable --now banger-vm-dns.service',
      'systemctl daemon-reload',
      'systemctl restart systemd-resolved.service',
      'nmcli general reload dns-full',
      'systemctl restart dnsmasq',
      'systemctl restart unbound',
    ]);
  });

  it('leaves files alone that banger did not write', async (t) => {
    const root = await tempDir(t);
    await mkdir(join(root, '/etc/dnsmasq.d'), { recursive: true });
    await writeFile(join(root, '/etc/dnsmasq.d/banger-vm.conf'), 'server=/vm/192.0.2.1\n');
    const plan = await planUndo({ root }, DNSMASQ, ROUTE);
    assert.deepEqual(plan, { summary: 'No setup for vm was found on this host.', steps: [] });
    assert.equal(await isSetUp({ root }, DNSMASQ, ROUTE), false);
  });

  it('goes on when the unit is not there any more', async (t) => {
    const root = await tempDir(t);
    await setUpResolver({ root }, RESOLVED, ROUTE, { runner: willing(), files: directFiles(root) });
    const runner = scriptedRunner({
      'systemctl disable': { exit: 1, stderr: 'no such unit' },
      'systemctl daemon-reload': {},
    });
    await applyPlan(await planUndo({ root }, RESOLVED, ROUTE), { runner, files: directFiles(root) });
    assert.equal(await isSetUp({ root }, RESOLVED, ROUTE), false);
  });
});

describe('the proof', () => {
  const proof = { zone: 'vm', probeAddress: '172.30.0.1' };

  it('asks for a new name each time until the answer is the one of bangerd', async () => {
    const asked: string[] = [];
    const name = await proveLookup({
      ...proof,
      lookup: async (wanted) => {
        asked.push(wanted);
        if (asked.length === 1) throw Object.assign(new Error('not found'), { code: 'ENOTFOUND' });
        return asked.length === 2 ? '192.0.2.66' : '172.30.0.1';
      },
    });
    assert.equal(new Set(asked).size, 3);
    assert.equal(name, asked[2]);
    assert.match(name, /^[0-9a-f]{8}\._probe\.vm$/);
  });

  it('fails with what the system said', async () => {
    const lookup = async (): Promise<string> => {
      throw Object.assign(new Error('not found'), { code: 'ENOTFOUND' });
    };
    const proven = proveLookup({ ...proof, timeoutMs: 0, lookup });
    await assert.rejects(proven, { code: 'timeout', message: /said "ENOTFOUND"/, hint: /--explain/ });
  });

  it('can be cancelled', async () => {
    const lookup = async () => '192.0.2.66';
    const proven = proveLookup({ ...proof, lookup, signal: AbortSignal.timeout(20) });
    await assert.rejects(proven, { code: 'cancelled' });
  });
});
