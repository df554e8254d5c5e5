/** Tells this host's resolver where names of VMs are answered, or takes that back; proves by a lookup that it works. */
import type { DnsPlan, DnsSetupResult } from '../../api/dns.ts';
import { formatSubnet, gatewayOf, type Subnet } from '../../core/addresses.ts';
import { detectResolver, type HostResolver } from '../../dns/resolver-detect.ts';
import {
  applyPlan,
  directFiles,
  isDone,
  isSetUp,
  type Plan,
  planSetup,
  planUndo,
  privilegedFiles,
  proveLookup,
  type Route,
  renderPlan,
  renderScript,
  type Step,
  setUpResolver,
} from '../../dns/resolver-setup.ts';
import { reverseZones } from '../../dns/reverse.ts';
import { BangerError } from '../../errors.ts';
import { commandLine } from '../../system/runner.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import type { DnsService } from './dns-service.ts';

/** The host itself; namespaces of tests have their own. */
const ROOT = '/';
/** How long a resolver that looks set up gets to prove it before it is set up again, in `ms`. */
const GLANCE_MS = 1500;

export type ResolverHost = Pick<Host, 'config' | 'network' | 'system'>;

/** Which resolver this host uses, and whether it has been told about the zone. */
export async function lookAtResolver({
  config,
  network,
  system,
}: ResolverHost): Promise<{ resolver: HostResolver; setUp: boolean }> {
  const resolver = await detectResolver({ root: ROOT, runner: system.runner });
  return { resolver, setUp: await isSetUp({ root: ROOT }, resolver, routeTo(config, network.pool)) };
}

/**
 * What a setup, or its undo, would change.
 * @throws BangerError `host_unprepared` when this host's resolver cannot be told
 */
export async function planDns(host: ResolverHost, undo: boolean): Promise<DnsPlan> {
  const { plan } = await makePlan(host, undo);
  const steps = plan.steps.map((step) => (step.do === 'run' ? { ...step, argv: [...step.argv] } : step));
  return { summary: plan.summary, steps, text: renderPlan(plan), script: renderScript(plan) };
}

/**
 * Carries the plan out, as root or by `sudo -n`.
 * @throws BangerError `host_unprepared` when this user may not, with the way to do it by hand
 * @throws BangerError `timeout` when everything was written and a lookup still does not come back
 */
export async function setUpDns(
  host: ResolverHost,
  dnsService: DnsService,
  undo: boolean,
  progress: Progress,
  signal: AbortSignal,
): Promise<DnsSetupResult> {
  progress.step('detect', 'looking which resolver this host uses');
  const { resolver, route, plan } = await makePlan(host, undo);
  if (!undo) requireListening(host, dnsService);
  const probeAddress = gatewayOf(host.network.pool);
  const prove = async (timeoutMs?: number) => {
    const limit = timeoutMs === undefined ? {} : { timeoutMs };
    return { name: await proveLookup({ zone: route.zone, probeAddress, signal, ...limit }), address: probeAddress };
  };
  if (!undo && (await isDone({ root: ROOT }, plan))) {
    progress.step('prove', 'looking a name up through the system');
    const proof = await prove(GLANCE_MS).catch(() => undefined);
    signal.throwIfAborted();
    if (proof) return { summary: plan.summary, changed: false, proof };
  }
  const options = {
    runner: host.system.privileged,
    files: host.system.uid === 0 ? directFiles(ROOT) : privilegedFiles(host.system.privileged),
    onStep: (step: Step) => progress.step(step.do, describe(step)),
    signal,
  };
  try {
    if (undo) await applyPlan(plan, options);
    else await setUpResolver({ root: ROOT }, resolver, route, options);
  } catch (error) {
    throw refusalWithWay(error, undo);
  }
  if (undo) return { summary: plan.summary, changed: plan.steps.length > 0, proof: null };
  progress.step('prove', 'looking a name up through the system');
  return { summary: plan.summary, changed: true, proof: await prove() };
}

async function makePlan(
  { config, network, system }: ResolverHost,
  undo: boolean,
): Promise<{ resolver: HostResolver; route: Route; plan: Plan }> {
  const route = routeTo(config, network.pool);
  const resolver = await detectResolver({ root: ROOT, runner: system.runner });
  const plan = undo ? await planUndo({ root: ROOT }, resolver, route) : planSetup(resolver, route);
  return { resolver, route, plan };
}

/** What to send to bangerd, and where a resolver of this host reaches it. */
function routeTo({ dns: { zone, address, port } }: ResolverHost['config'], pool: Subnet): Route {
  const anywhere: Record<string, string> = { '0.0.0.0': '127.0.0.1', '::': '::1' };
  return { zone, reverseZones: reverseZones(formatSubnet(pool)), address: anywhere[address] ?? address, port };
}

/** A resolver that asks where nobody answers makes every lookup of the zone slow. */
function requireListening({ config }: ResolverHost, { server }: DnsService): void {
  if (!config.dns.enabled) {
    throw new BangerError('conflict', 'Names are switched off (dns.enabled = false).', {
      hint: 'Set dns.enabled = true, then: banger daemon stop && banger dns setup',
    });
  }
  if (server.state === 'listening') return;
  const why = server.lastError?.message ?? 'It was not started.';
  throw new BangerError('conflict', `bangerd does not listen on ${server.address} port ${server.port}. ${why}`, {
    hint: 'Free the port or set another one with dns.port, then: banger dns setup',
  });
}

function describe(step: Step): string {
  if (step.do === 'run') return `running ${commandLine(step.argv)}`;
  return `${step.do === 'write' ? 'writing' : 'removing'} ${step.path}`;
}

/** What sudo refuses here is not in the rules of `banger doctor --sudoers`, and must not be: it would be all of root. */
function refusalWithWay(error: unknown, undo: boolean): unknown {
  if (!(error instanceof BangerError) || error.code !== 'host_unprepared') return error;
  const command = `banger dns setup${undo ? ' --undo' : ''}`;
  return new BangerError('host_unprepared', `${error.message} Nothing was changed.`, {
    cause: error,
    hint: `Let root do it: ${command} --script | sudo sh${undo ? '' : '   then prove it: banger dns setup'}`,
    ...(error.details ? { details: error.details } : {}),
  });
}
