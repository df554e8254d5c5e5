/**
 * A program for a namespace of its own: KIND ROOT. It starts that resolver as its Debian package would, sets it
 * up the way `banger dns setup` does, looks names up like any program, and prints what it found as JSON.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import dns from 'node:dns/promises';
import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { explainName } from '../../../src/dns/explain.ts';
import { detectResolver } from '../../../src/dns/resolver-detect.ts';
import {
  applyPlan,
  directFiles,
  isSetUp,
  planSetup,
  planUndo,
  proveLookup,
  setUpResolver,
} from '../../../src/dns/resolver-setup.ts';
import { DnsServer } from '../../../src/dns/server.ts';
import { createZone } from '../../../src/dns/zone.ts';
import { createRunner, type Runner } from '../../../src/system/runner.ts';
import { prepareNamespace } from './namespace.ts';
import { ZONE_OPTIONS } from './packets.ts';

const [kind = '', packageRoot = '/'] = process.argv.slice(2);
/** Stands for the resolver of the provider; on no loopback address, as some resolvers ask none there. */
const UPSTREAM = '192.0.2.53';
const run = promisify(execFile);
const services = new Map<string, ChildProcess>();
const findings: Record<string, unknown> = {};

await prepareNamespace();
// systemd-resolved asks nobody as long as no link but loopback is up
await run('ip', ['link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth0-peer']);
await run('ip', ['link', 'set', 'eth0-peer', 'up']);
await run('ip', ['link', 'set', 'eth0', 'up']);
await run('ip', ['address', 'add', `${UPSTREAM}/24`, 'dev', 'eth0']);
const provider = createZone({
  ...ZONE_OPTIONS,
  zone: 'corp.example',
  pools: [],
  serverAddress: UPSTREAM,
  probeAddress: UPSTREAM,
});
provider.set({ name: 'intranet', ipv4: '192.0.2.80' });
const outside = new DnsServer({ zone: provider, address: UPSTREAM, port: 53 });
await outside.start();

const zone = createZone(ZONE_OPTIONS);
zone.set({ name: 'web', ipv4: '172.30.0.2' });
const bangerd = new DnsServer({ zone, address: '127.0.0.1', port: 42069 });
await bangerd.start();
const route = { zone: 'vm', reverseZones: zone.reverseNames, address: '127.0.0.1', port: 42069 };

const BIND = ['--listen-address=127.0.0.1', '--bind-interfaces', '--no-resolv', `--server=${UPSTREAM}`];

const start: Record<string, () => Promise<void>> = {
  async dnsmasq() {
    // as the init script of the package does, with strict settings that people have
    await mkdir('/etc/dnsmasq.d', { recursive: true });
    const strict = ['--stop-dns-rebind', '--rebind-domain-ok=/corp.example/', '--bogus-priv', '--local-service'];
    const directory = '/etc/dnsmasq.d,.dpkg-dist,.dpkg-old,.dpkg-new';
    service('dnsmasq', 'dnsmasq', ['-k', '-u', 'root', '-7', directory, ...strict, ...BIND]);
    await answering('127.0.0.1');
  },
  async 'networkmanager-dnsmasq'() {
    // the arguments NetworkManager gives it
    const directory = '/etc/NetworkManager/dnsmasq.d';
    await mkdir(directory, { recursive: true });
    const fixed = ['--keep-in-foreground', '--no-hosts', '--conf-file=/dev/null', '--proxy-dnssec', '--user=root'];
    service('networkmanager-dnsmasq', 'dnsmasq', [...fixed, `--conf-dir=${directory}`, ...BIND]);
    await answering('127.0.0.1');
  },
  async unbound() {
    // installed packages have their files in place already
    if (packageRoot !== '/') await cp(join(packageRoot, 'etc/unbound'), '/etc/unbound', { recursive: true });
    // the package makes this key at installation; without a network its place is taken by strict settings
    await rm('/etc/unbound/unbound.conf.d/root-auto-trust-anchor-file.conf', { force: true });
    await rm('/etc/unbound/unbound.conf.d/remote-control.conf', { force: true });
    const server = ['server:', ' username: ""', ' chroot: ""', ' pidfile: ""', ' do-daemonize: no', ' use-syslog: no'];
    const strict = [' private-address: 172.16.0.0/12', ' harden-below-nxdomain: yes', ' qname-minimisation-strict: no'];
    const anchor = [' trust-anchor: ". DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D"'];
    const forward = [' domain-insecure: "example."', 'forward-zone:', ' name: "."', ` forward-addr: ${UPSTREAM}`, ''];
    await writeFile('/etc/unbound/unbound.conf.d/test.conf', [...server, ...strict, ...anchor, ...forward].join('\n'));
    service('unbound', 'unbound', ['-d']);
    await answering('127.0.0.1');
  },
  async 'systemd-resolved'() {
    await mkdir('/etc/systemd/resolved.conf.d', { recursive: true });
    await writeFile('/etc/systemd/resolved.conf.d/test.conf', `[Resolve]\nDNS=${UPSTREAM}\nDNSSEC=no\n`);
    await startResolved();
  },
};

async function startResolved(): Promise<void> {
  if (!services.has('dbus')) {
    await mkdir('/run/dbus', { recursive: true });
    await mkdir('/run/systemd/resolve', { recursive: true });
    const passwd = await readFile('/etc/passwd', 'utf8');
    if (!passwd.includes('systemd-resolve:')) {
      await writeFile('/etc/passwd', `${passwd}systemd-resolve:x:993:993::/:/usr/sbin/nologin\n`);
      await writeFile('/etc/group', `${await readFile('/etc/group', 'utf8')}systemd-resolve:x:993:\n`);
    }
    await run('chown', ['systemd-resolve:systemd-resolve', '/run/systemd/resolve']);
    const messages = ['method_call', 'method_return', 'signal', 'error'];
    const allowed = messages.map((type) => `<allow send_type="${type}"/><allow receive_type="${type}"/>`).join('');
    const policy = `<policy context="default"><allow user="*"/><allow own="*"/>${allowed}</policy>`;
    const listen = '<listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>';
    await writeFile('/run/bus.conf', `<busconfig><type>system</type>${listen}${policy}</busconfig>`);
    service('dbus', 'dbus-daemon', ['--config-file=/run/bus.conf', '--nofork', '--nopidfile']);
    await delay(300);
  }
  service('systemd-resolved', 'systemd-resolved', []);
  await answering('127.0.0.53');
  const deadline = performance.now() + 5000;
  while (
    !(await run('resolvectl', ['status']).then(
      () => true,
      () => false,
    )) &&
    performance.now() < deadline
  )
    await delay(50);
}

function service(name: string, program: string, args: string[]): void {
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  child.on('error', (error) => process.stderr.write(`${program}: ${error.message}\n`));
  services.set(name, child);
}

async function stop(name: string): Promise<void> {
  const child = services.get(name);
  if (child === undefined || child.exitCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  await ended;
}

/** Waits until the resolver at an address brings the provider's name. */
async function answering(address: string): Promise<void> {
  const resolver = new dns.Resolver({ timeout: 300, tries: 1 });
  resolver.setServers([address]);
  const deadline = performance.now() + 10_000;
  for (;;) {
    const found = await resolver.resolve4('intranet.corp.example').catch((): string[] => []);
    if (found.includes('192.0.2.80')) return;
    if (performance.now() > deadline) throw new Error(`${kind} at ${address} does not answer`);
    await delay(50);
  }
}

/** Does what systemd would: no init runs in here. */
const host = createRunner();
const commands: string[] = [];
const runner: Pick<Runner, 'run'> = {
  async run(argv, options) {
    const line = argv.join(' ').replace(/^nmcli general reload dns-full$/, 'service networkmanager-dnsmasq restart');
    commands.push(argv.join(' '));
    const restart = /^(?:systemctl restart|service|rc-service) (\S+?)(?:\.service)?(?: restart)?$/.exec(line)?.[1];
    if (restart !== undefined && start[restart]) {
      await stop(restart);
      await start[restart]();
    } else if (restart?.startsWith('banger-')) {
      await runUnit(`/etc/systemd/system/${restart}.service`, 'ExecStop');
      await runUnit(`/etc/systemd/system/${restart}.service`, 'ExecStartPre');
      await runUnit(`/etc/systemd/system/${restart}.service`, 'ExecStart');
    } else if (line.startsWith('systemctl disable --now banger-')) {
      await runUnit(`/etc/systemd/system/${argv[3]}`, 'ExecStop');
    } else if (!line.startsWith('systemctl ')) {
      return await host.run(argv, options);
    }
    return { exitCode: 0, stdout: '', stderr: '' };
  },
};

async function runUnit(path: string, key: string): Promise<void> {
  for (const line of (await readFile(path, 'utf8')).split('\n')) {
    if (!line.startsWith(`${key}=`)) continue;
    const words = line.slice(key.length + 1).split(' ');
    const tolerant = words[0]?.startsWith('-');
    const [program = '', ...args] = [words[0]?.replace(/^-/, '') ?? '', ...words.slice(1)];
    const ran = run(program, args).catch(async (error: unknown) => {
      // kernels without the dummy driver: one end of a pair of virtual cables does as well
      if (args.at(-1) !== 'dummy' || !String(error).includes('Unknown device type')) throw error;
      findings.dummy = 'replaced by veth, as this kernel has no dummy device';
      await run(program, [...args.slice(0, -1), 'veth', 'peer', 'name', 'bgdns-peer']);
      await run('ip', ['link', 'set', 'bgdns-peer', 'up']);
    });
    await ran.catch((error: unknown) => {
      if (!tolerant) throw error;
    });
  }
}

/** What getaddrinfo says, as every program would hear it. */
async function look(name: string): Promise<string> {
  return await dns.lookup(name, { family: 4 }).then(
    ({ address }) => address,
    (error: NodeJS.ErrnoException) => error.code ?? String(error),
  );
}

async function lookBack(address: string): Promise<string> {
  return await dns.lookupService(address, 22).then(
    ({ hostname }) => hostname,
    (error: NodeJS.ErrnoException) => error.code ?? String(error),
  );
}

/** Every file of /etc and a digest of its content. */
async function fingerprint(): Promise<string[]> {
  const entries = await readdir('/etc', { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  const lines = files.map(
    async (file) =>
      `${file} ${createHash('sha256')
        .update(await readFile(file))
        .digest('hex')}`,
  );
  return (await Promise.all(lines)).sort();
}

await rm('/etc/resolv.conf', { force: true });
await writeFile('/etc/resolv.conf', `nameserver ${kind === 'systemd-resolved' ? '127.0.0.53' : '127.0.0.1'}\n`);
await start[kind]?.();

const resolver = await detectResolver({ root: '/', runner: host });
findings.kind = resolver.kind;
findings.reason = resolver.reason;
findings.before = await look('web.vm');
const untouched = await fingerprint();

const options = { runner, files: directFiles() };
findings.explainedBefore = await explained();
await setUpResolver({ root: '/' }, resolver, route, options);
findings.files = planSetup(resolver, route).steps.flatMap((step) => (step.do === 'write' ? [step.path] : []));
findings.proof = /^[0-9a-f]{8}\._probe\.vm$/.test(await proveLookup({ zone: 'vm', probeAddress: '172.30.0.1' }));
findings.explainedAfter = await explained();

const asked = () => outside.status.queries.outside;
const leftBefore = asked();
findings.address = await look('web.vm');
findings.wildcard = await look('api.web.vm');
findings.upperCase = await look('WEB.VM');
findings.missing = await look('late.vm');
findings.reverse = await lookBack('172.30.0.2');
findings.leaked = asked() - leftBefore;
const servedBefore = bangerd.status.queries.outside;
findings.elsewhere = await look('intranet.corp.example');
findings.unknown = await look('nobody.corp.example');
findings.toBangerd = bangerd.status.queries.outside - servedBefore;

zone.set({ name: 'late', ipv4: '172.30.0.3' });
await delay(1500);
findings.late = await look('late.vm');
zone.delete('late');
await delay(ZONE_OPTIONS.ttlSeconds * 1000 + 500);
findings.deleted = await look('late.vm');

// a restart of the resolver; systemd restarts the unit with it (PartOf)
await stop(kind);
await start[kind]?.();
if (resolver.kind === 'systemd-resolved') await runner.run(['systemctl', 'restart', 'banger-vm-dns.service']);
findings.afterRestart = await look('x.web.vm');
await setUpResolver({ root: '/' }, resolver, route, options);
findings.afterSecondSetup = await look('y.web.vm');

await applyPlan(await planUndo({ root: '/' }, resolver, route), options);
findings.setUpAfterUndo = await isSetUp({ root: '/' }, resolver, route);
findings.changedAfterUndo = difference(untouched, await fingerprint());
findings.afterUndo = await look('z.web.vm');
findings.elsewhereAfterUndo = await look('intranet.corp.example');
findings.secondUndo = (await planUndo({ root: '/' }, resolver, route)).steps.length;
findings.commands = commands;
process.stdout.write(JSON.stringify(findings));
process.exit(0);

async function explained(): Promise<string> {
  const setUp = await isSetUp({ root: '/' }, resolver, route);
  const links = await explainName({ name: 'web', zone, server: bangerd.status, resolver, setUp });
  return links.map(({ link, ok }) => `${link} ${ok ? 'ok' : 'broken'}`).join(', ');
}

function difference(before: string[], after: string[]): string[] {
  return [...before.filter((line) => !after.includes(line)), ...after.filter((line) => !before.includes(line))];
}
