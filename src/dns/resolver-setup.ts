/** Tells the host's resolver where the zone lives, takes that back, and proves by a real lookup that it works. */
import { randomBytes } from 'node:crypto';
import { lookup as systemLookup } from 'node:dns/promises';
import { chmod, mkdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { BangerError, messageOf, systemCode } from '../errors.ts';
import { sleep } from '../system/abort.ts';
import { writeFileAtomic } from '../system/files.ts';
import type { Runner } from '../system/runner.ts';
import { type HostResolver, type HostView, type ResolverKind, readIn } from './resolver-detect.ts';
import { dnsmasq, networkManagerDnsmasq } from './resolvers/dnsmasq.ts';
import { MARKER, type Plan, type Recipe, type Route, type Step } from './resolvers/plan.ts';
import { systemdResolved } from './resolvers/systemd-resolved.ts';
import { unbound } from './resolvers/unbound.ts';
import { PROBE_LABEL } from './zone.ts';

export { type Plan, type Route, renderPlan, renderScript, type Step } from './resolvers/plan.ts';

const RECIPES: Partial<Record<ResolverKind, Recipe>> = {
  'systemd-resolved': systemdResolved,
  'networkmanager-dnsmasq': networkManagerDnsmasq,
  dnsmasq,
  unbound,
};

/** How long a restarted resolver may take until it answers, in `ms`. */
const PROOF_MS = 10_000;
const PROOF_PAUSE_MS = 250;

/** Changes files of the host; `path` is absolute. */
export interface FileWriter {
  write(path: string, content: string): Promise<void>;
  remove(path: string): Promise<void>;
}

export interface ApplyOptions {
  /** runs the plan's commands, as root where that is needed */
  runner: Pick<Runner, 'run'>;
  files: FileWriter;
  /** told of each step before it is done */
  onStep?: (step: Step) => void;
  signal?: AbortSignal | undefined;
}

/**
 * What to change so that the host asks bangerd for the zone, and for nothing else.
 * @throws BangerError `host_unprepared` when this resolver can not be told; the hint says what would help
 */
export function planSetup(resolver: HostResolver, route: Route): Plan {
  const recipe = RECIPES[resolver.kind];
  if (recipe) return recipe.plan(route, resolver);
  const unchanged = 'Nothing was changed; `banger ssh` and `ssh NAME.vm` do not need it.'.replace('vm', route.zone);
  if (resolver.kind === 'unknown') {
    throw new BangerError('host_unprepared', `${resolver.reason} ${unchanged}`, {
      hint: `Tell your resolver to ask ${route.address} port ${route.port} for ${[route.zone, ...route.reverseZones].join(' and ')}`,
    });
  }
  const way = resolver.networkManager
    ? 'Let NetworkManager run a resolver: write "[main]" and "dns=dnsmasq" to /etc/NetworkManager/conf.d/dns.conf, install dnsmasq-base, restart NetworkManager'
    : 'Install a resolver that can: sudo apt install systemd-resolved';
  throw new BangerError(
    'host_unprepared',
    `${resolver.reason} A resolv.conf has no way to send one zone elsewhere. ${unchanged}`,
    { hint: `${way}. Then run: banger dns setup` },
  );
}

/** What takes back every setup of this zone, of whichever resolver; without steps when there is none. */
export async function planUndo(host: Pick<HostView, 'root'>, resolver: HostResolver, route: Route): Promise<Plan> {
  const steps: Step[] = [];
  for (const recipe of Object.values(RECIPES)) {
    const found = await markedFiles(host.root, recipe.ownedPaths(route, resolver));
    if (found.length > 0) steps.push(...recipe.undo(route, resolver, found));
  }
  const summary =
    steps.length > 0
      ? `The host will no longer ask bangerd for names below ${route.zone}.`
      : `No setup for ${route.zone} was found on this host.`;
  return { summary, steps };
}

/**
 * Carries out the setup plan; when a step fails, what was done is taken back first.
 * @throws BangerError of the step that failed
 */
export async function setUpResolver(
  host: Pick<HostView, 'root'>,
  resolver: HostResolver,
  route: Route,
  options: ApplyOptions,
): Promise<void> {
  try {
    await applyPlan(planSetup(resolver, route), options);
  } catch (error) {
    const undo = await planUndo(host, resolver, route);
    for (const step of undo.steps) {
      // the first error is the one that tells what is wrong
      await applyPlan({ ...undo, steps: [step] }, { ...options, signal: undefined }).catch(() => {});
    }
    throw error;
  }
}

/** Whether every file a setup would write is there already, exactly so. */
export async function isDone(host: Pick<HostView, 'root'>, plan: Plan): Promise<boolean> {
  const writes = plan.steps.filter((step) => step.do === 'write');
  const contents = await Promise.all(writes.map((step) => readIn(host.root, step.path)));
  return writes.length > 0 && writes.every((step, index) => contents[index] === step.content);
}

/** Whether the resolver of the host has been told about the zone. */
export async function isSetUp(host: Pick<HostView, 'root'>, resolver: HostResolver, route: Route): Promise<boolean> {
  const recipe = RECIPES[resolver.kind];
  return recipe !== undefined && (await markedFiles(host.root, recipe.ownedPaths(route, resolver))).length > 0;
}

/**
 * Carries out a plan.
 * @throws BangerError of the step that failed; what the steps before it did is left for the caller to undo
 */
export async function applyPlan(plan: Plan, { runner, files, onStep, signal }: ApplyOptions): Promise<void> {
  for (const step of plan.steps) {
    onStep?.(step);
    if (step.do === 'write') await files.write(step.path, step.content);
    else if (step.do === 'remove') await files.remove(step.path);
    else {
      await runner.run(step.argv, signal ? { signal } : {}).catch((error: unknown) => {
        if (!step.optional) throw error;
      });
    }
  }
}

export interface ProofOptions {
  zone: string;
  /** address the probe name has in the zone */
  probeAddress: string;
  /** limit in `ms` */
  timeoutMs?: number;
  /** lookup through the system's resolver (getaddrinfo) */
  lookup?: (name: string) => Promise<string>;
  signal?: AbortSignal;
}

/**
 * Looks up a name nobody has asked for before, the way every program does, until bangerd's answer comes back.
 * @returns the name that was looked up
 * @throws BangerError `timeout` with what the system's resolver said instead
 */
export async function proveLookup(options: ProofOptions): Promise<string> {
  const { zone, probeAddress, timeoutMs = PROOF_MS, lookup = getaddrinfo, signal } = options;
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const name = `${randomBytes(4).toString('hex')}.${PROBE_LABEL}.${zone}`;
    const said = await lookup(name).catch((error: unknown) => systemCode(error) ?? messageOf(error));
    if (said === probeAddress) return name;
    if (performance.now() >= deadline) {
      throw new BangerError('timeout', `A lookup of ${name} did not reach bangerd: the system said "${said}".`, {
        hint: `See which link is broken: banger dns status --explain ${name}`,
      });
    }
    await sleep(PROOF_PAUSE_MS, signal);
  }
}

/** Writes straight into a tree; for tests, and for a daemon that is root. */
export function directFiles(root = '/'): FileWriter {
  return {
    async write(path, content) {
      const target = join(root, path);
      await mkdir(dirname(target), { recursive: true });
      await writeFileAtomic(target, content);
      await chmod(target, 0o644); // services run as users of their own, whatever our umask is
    },
    async remove(path) {
      await rm(join(root, path), { force: true });
    },
  };
}

/** Writes by programs that the runner starts as root. */
export function privilegedFiles(runner: Pick<Runner, 'run'>): FileWriter {
  return {
    async write(path, content) {
      await runner.run(['mkdir', '-p', dirname(path)]);
      await runner.run(['tee', path], { input: content });
      await runner.run(['chmod', '0644', path]);
    },
    async remove(path) {
      await runner.run(['rm', '-f', path]);
    },
  };
}

async function markedFiles(root: string, paths: readonly string[]): Promise<string[]> {
  const marker = MARKER.slice(1);
  const contents = await Promise.all(paths.map((path) => readIn(root, path)));
  return paths.filter((_, index) => contents[index]?.slice(1).startsWith(marker));
}

async function getaddrinfo(name: string): Promise<string> {
  return (await systemLookup(name, { family: 4 })).address;
}
