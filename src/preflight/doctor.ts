/** Every check there is, and what banger would do on this machine. */

import { readdir, stat } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { dirname } from 'node:path';
import { detectResolver } from '../dns/resolver-detect.ts';
import { isSetUp } from '../dns/resolver-setup.ts';
import { mayAskHelper } from '../network/helper-client.ts';
import { findUplink, findWays } from '../network/routes.ts';
import { sharesBlocks } from '../storage/file-system.ts';
import { findProgram, groupOfDevice, KVM_DEVICE } from '../system/host-facts.ts';
import { SUDO_PATH } from '../system/privilege.ts';
import { LOWERER, type PrivilegedProgram, STORAGE_PROGRAMS } from '../system/privileged-commands.ts';
import { type Check, type CheckResult, runChecks } from './check.ts';
import { allChecks, type PreflightCommand, preflightFor } from './commands.ts';
import { hasBoot, type PreflightContext } from './context.ts';
import { deviceAccess } from './self-test.ts';
import { knowsRegularExpressions, programName, renderSudoers } from './sudoers.ts';
import { chooseVmm } from './vmm-choice.ts';

export interface DoctorReport {
  checks: CheckResult[];
  /** what banger would do here, by topic in the order of telling */
  summary: Record<string, string>;
  /** false when a command would fail here */
  ok: boolean;
}

/** Runs every check, or those of some commands, as thoroughly as they can be run; KVM is tested again. */
export async function runDoctor(context: PreflightContext, ...commands: PreflightCommand[]): Promise<DoctorReport> {
  const thorough: PreflightContext = { ...context, thorough: true, retestKvm: true };
  const every = commands.length === 0;
  const checks = every ? allChecks() : [...new Set(commands.flatMap((command) => preflightFor(command)))];
  const results = await runChecks(checks, thorough);
  const judged = every && hasBoot(context) ? results.map(forgiveBuildOnly(checks)) : results;
  return {
    checks: judged,
    summary: await summarize(thorough),
    ok: judged.every((result) => result.status !== 'failed'),
  };
}

/** With a bundle in place, what only building another one or an image needs is worth a warning. */
function forgiveBuildOnly(checks: readonly Check<PreflightContext>[]): (result: CheckResult) => CheckResult {
  const elsewhere = new Set(
    (['vm-start', 'vm-create', 'nat', 'ssh'] as const).flatMap((command) => preflightFor(command)),
  );
  const buildOnly = new Set(checks.filter((check) => !elsewhere.has(check)).map((check) => check.id));
  return (result) =>
    result.status === 'failed' && buildOnly.has(result.id)
      ? { ...result, status: 'warning', detail: `${result.detail} Only needed to build bundles and images.` }
      : result;
}

async function summarize(context: PreflightContext): Promise<Record<string, string>> {
  const [vmm, disks, uplink, resolver] = await Promise.all([
    chooseVmm(context).then(
      ({ kind, acceleration, reason }) => `${kind}, ${acceleration === 'kvm' ? 'KVM' : 'emulation (TCG)'}: ${reason}`,
      () => 'none: VMs cannot run here',
    ),
    diskMethod(context.config.paths.store),
    uplinkName(context),
    resolverFacts(context),
  ]);
  return {
    host: `${context.facts.distribution.name}, ${context.facts.arch}, ${context.facts.cpus} CPUs`,
    vmm,
    bundle: hasBoot(context) ? `${context.boot.name} (${dirname(context.boot.kernel)})` : 'none',
    disks,
    network: `pool ${context.pool ?? 'none'}, uplink ${uplink ?? 'none'}`,
    rights: await rightsOf(context),
    resolver,
  };
}

async function rightsOf({ config: { privilege }, uid }: PreflightContext): Promise<string> {
  if (uid === 0) return 'root';
  if (await mayAskHelper(privilege.helper)) return `the network helper (${privilege.helper})`;
  return privilege.sudo === 'never' ? 'none' : 'sudo -n, to set up networks';
}

/** Who resolves names on this host, and whether that one finds VMs. */
async function resolverFacts({ config: { dns }, runner }: PreflightContext): Promise<string> {
  const resolver = await detectResolver({ root: '/', runner });
  const found = `${resolver.kind}: ${resolver.reason}`;
  if (!dns.enabled) return `${found} Names of VMs are switched off (dns.enabled = false).`;
  const route = { zone: dns.zone, reverseZones: [], address: dns.address, port: dns.port };
  return (await isSetUp({ root: '/' }, resolver, route))
    ? `${found} It has been told to ask bangerd for names below ${dns.zone}.`
    : `${found} It does not know names below ${dns.zone}: banger dns setup`;
}

async function uplinkName({ config, env, runner }: PreflightContext): Promise<string | undefined> {
  const ip = await findProgram(config.programs.ip, env);
  return ip.found ? (await findUplink(runner, ip.path, config.network.uplink))?.device : undefined;
}

async function diskMethod(store: string): Promise<string> {
  const directory = await nearestDirectory(store);
  const shared = await sharesBlocks(directory);
  if (shared) return `clones share blocks (${directory})`;
  if (shared === undefined) return `unknown: this user may not write to ${directory}`;
  return `sparse copies: the file system of ${directory} cannot share blocks; banger storage init makes one that can`;
}

async function nearestDirectory(path: string): Promise<string> {
  const exists = await stat(path).then(
    () => true,
    () => false,
  );
  return exists || dirname(path) === path ? path : await nearestDirectory(dirname(path));
}

/** The rules that `banger doctor --sudoers` prints for the user who asks. */
export async function sudoersFor(context: PreflightContext): Promise<string> {
  const { config, env, pool, runner, table, uid } = context;
  const programs: Partial<Record<PrivilegedProgram, string>> = {};
  for (const program of ['ip', 'nft', 'sysctl', 'firecracker', ...STORAGE_PROGRAMS] as const) {
    const found = await findProgram(programName(program, config), { PATH: SUDO_PATH });
    if (found.found) programs[program] = found.path;
  }
  const sudo = await findProgram(config.programs.sudo, env);
  const version = sudo.found ? (await runner.run([sudo.path, '-V'], { env })).stdout : '';
  const lowerer = await findProgram(LOWERER, { PATH: SUDO_PATH });
  const device = context.kvmDevice ?? KVM_DEVICE;
  const kvmGroup = (await deviceAccess(device)) === 'denied' ? await groupOfDevice(device) : undefined;
  return renderSudoers({
    user: userInfo().username,
    owner: { uid, gid: process.getegid?.() ?? uid, kvmGroup },
    lowerer: lowerer.found ? lowerer.path : LOWERER,
    programs,
    pool: pool ?? '172.30.0.0/16',
    table,
    uplinks: await outwardDevices(context),
    run: config.paths.run,
    store: config.paths.store,
    cache: config.paths.cache,
    state: config.paths.state,
    regularExpressions: knowsRegularExpressions(version),
  });
}

/** Devices that routes lead to, and those with hardware behind them: any of them may come to lead outside. */
async function outwardDevices({ config, env, runner }: PreflightContext): Promise<string[]> {
  const ip = await findProgram(config.programs.ip, env);
  const ways = ip.found ? await findWays(runner, ip.path) : [];
  return [...new Set([...ways.map(({ device }) => device), ...(await physicalDevices())])].sort();
}

async function physicalDevices(): Promise<string[]> {
  const devices: string[] = [];
  for (const name of await readdir('/sys/class/net')) {
    const isPhysical = await stat(`/sys/class/net/${name}/device`).then(
      () => true,
      () => false,
    );
    if (isPhysical) devices.push(name);
  }
  return devices.sort();
}
