/** The steps of an image build inside its VM, each one command over the kept SSH connection. */
import { BangerError } from '../../errors.ts';
import { quote, shellCommand } from '../../guest/command.ts';
import { type GuestRun, type GuestRunOptions, runInGuest } from '../../guest/run.ts';
import type { SshConnection } from '../../guest/ssh.ts';
import { NOT_WOKEN, WAKE_FAILED } from '../../guest/wake.ts';
import { causeOf, DISK_FULL, UNKNOWN_OWNER } from '../../image/failures.ts';
import { prepareScript } from '../../image/identity.ts';
import { PACKAGE_ENV, type PackageManager, packageManagerOf } from '../../image/package-managers.ts';
import { type ArchiveItem, tarStream } from '../../image/tar-stream.ts';
import { type Distribution, parseOsRelease } from '../../system/os-release.ts';
import { formatDuration } from '../../units.ts';
import type { Progress } from '../operations.ts';
import type { DebPlan } from './host-packages.ts';
import type { BuildRequest, BuildStep } from './plan.ts';

export interface StepContext {
  request: BuildRequest;
  connection: SshConnection;
  distribution: Distribution;
  /** packages the host has resolved; the guest does it itself without */
  debs: DebPlan | undefined;
  progress: Progress;
  signal: AbortSignal;
  /** resolves when the guest's init takes orders; the login comes earlier */
  initUp: () => Promise<void>;
  /** shell commands that go before the next command and are taken from here: one of their own would cost a guest too much */
  before: string[];
}

/** The whole environment of a step but the recipe's: nothing of it depends on how banger logged in. */
const ENVIRONMENT = {
  HOME: '/root',
  USER: 'root',
  LOGNAME: 'root',
  SHELL: '/bin/sh',
  // the last one is there in guests that were OCI images, for what they lack
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/banger/bin',
};

/** Small commands of our own: enough for a guest that swaps. */
const OWN_LIMIT_MS = 5 * 60_000;

/** A script file lies here while it runs. */
const SCRIPT_FILE = '/tmp/.banger-script';

/** More lines than a person reads in a second; the rest would only keep the daemon busy. */
const LINES_PER_SECOND = 200;

/** GNU tar would put a directory in the place of a link to one; busybox does not know the option and does not do that. */
const UNPACK = 'tar --version 2>/dev/null | grep -q GNU && keep=--keep-directory-symlink; tar -x -p $keep -f - -C /';

/**
 * Prepares the guest for steps and says what it is.
 * @throws BangerError `guest_failed`
 */
export async function prepareGuest(
  connection: SshConnection,
  name: string,
  signal: AbortSignal,
): Promise<Distribution> {
  const run = await runInGuest(connection, prepareScript(), { timeoutMs: OWN_LIMIT_MS, capture: true, signal });
  if (run.exitCode !== 0) throw stepError(name, 'prepare the guest', run, OWN_LIMIT_MS);
  return parseOsRelease(run.stdout);
}

/** @throws BangerError `guest_failed` or `timeout` with the step, its exit code and its last lines */
export async function performStep(step: BuildStep, context: StepContext): Promise<void> {
  switch (step.kind) {
    case 'packages':
      return await installPackages(step.label, step.packages, context);
    case 'modules':
      return await unpack(step, context, `depmod ${quote(step.release ?? '')}`);
    case 'files':
    case 'seed':
      return await unpack(step, context, 'true');
    case 'run':
      await context.initUp();
      return await runLine(step, context);
  }
}

/** @throws BangerError `guest_failed` */
export async function listPackages(manager: PackageManager, context: StepContext): Promise<string> {
  const run = await runInGuest(context.connection, shell(manager.list, PACKAGE_ENV), {
    timeoutMs: OWN_LIMIT_MS,
    capture: true,
    signal: context.signal,
  });
  if (run.exitCode !== 0) throw stepError(context.request.name, 'list the packages', run, OWN_LIMIT_MS);
  return run.stdout;
}

async function installPackages(label: string, packages: readonly string[], context: StepContext): Promise<void> {
  const { debs, request } = context;
  const env = { ...PACKAGE_ENV, ...request.recipe.env };
  if (debs) {
    const lines = [...(debs.debs.length > 0 ? [UNPACK] : []), ...debs.commands];
    const input = debs.debs.length > 0 ? tarStream(debs.debs) : undefined;
    return await execute(label, shell(lines.join('\n'), env), context, input ? { input } : {});
  }
  const manager = packageManagerOf(context.distribution);
  const lines = [...manager.refresh, manager.install(packages.map(quote))];
  await execute(label, shell(lines.join('\n'), env), context);
}

async function unpack(
  step: { label: string; items: readonly ArchiveItem[] },
  context: StepContext,
  after: string,
): Promise<void> {
  const script = [...requireOwners(step.items), ...(step.items.length > 0 ? [UNPACK] : []), after].join('\n');
  const options = step.items.length > 0 ? { input: tarStream(step.items) } : {};
  await execute(step.label, shell(script, {}), context, options);
}

/** tar would give files of an owner it does not know to somebody else, and say nothing. */
function requireOwners(items: readonly ArchiveItem[]): string[] {
  const names = (of: (item: ArchiveItem) => string) =>
    [...new Set(items.map(of))].filter((name) => name !== 'root' && !/^\d+$/.test(name));
  const require = (database: string, what: string, name: string) =>
    `{ getent ${database} ${name} || grep "^${name}:" /etc/${database}; } > /dev/null 2>&1 || ` +
    `{ echo '${UNKNOWN_OWNER} ${what} ${name}' >&2; exit 1; }`;
  return [
    ...names(({ user }) => user).map((name) => require('passwd', 'user', name)),
    ...names(({ group }) => group).map((name) => require('group', 'group', name)),
  ];
}

async function runLine(step: BuildStep & { kind: 'run' }, context: StepContext): Promise<void> {
  const { env, user } = context.request.recipe;
  const argv = step.script ? [SCRIPT_FILE] : ['sh', '-ec', String(step.text)];
  const { PATH } = ENVIRONMENT;
  const asUser =
    user === 'root'
      ? `cd /root\n${clean(argv, env)}`
      : `exec su - ${quote(user)} -s /bin/sh -c ${quote(shellCommand({ argv, env: { PATH, ...env } }))}`;
  if (!step.script) return await execute(step.label, asUser, context);
  const place = `cat > ${SCRIPT_FILE} && chmod 755 ${SCRIPT_FILE} || exit`;
  await execute(step.label, `${place}\n${asUser}`, context, { input: step.text });
}

/** One command of a step; its output goes out as it comes, thinned where it floods. */
async function execute(
  label: string,
  command: string,
  { connection, request, progress, signal, before }: StepContext,
  options: Pick<GuestRunOptions, 'input'> = {},
): Promise<void> {
  const pass = thinned((line) => progress.line(line));
  let full: string | undefined;
  const opening = before.splice(0).join('');
  // whatever shell root has
  const whole = opening === '' ? command : `exec sh -c ${quote(opening + command)}`;
  const run = await runInGuest(connection, whole, {
    timeoutMs: request.runTimeoutMs,
    signal,
    onLine(line) {
      // dpkg goes on for long after that, about packages that depend on others
      if (full === undefined && line.includes(DISK_FULL)) full = line;
      pass(line);
    },
    ...options,
  });
  if (opening !== '') requireAwake(request.name, run);
  if (run.exitCode !== 0) throw stepError(request.name, label, run, request.runTimeoutMs, full);
  if (run.lingers)
    progress.warn(`"${label}" left something running that ends with the VM: its output is not waited for.`);
}

/** @throws BangerError `guest_failed` with `wake` in its details when the machine the build goes on in was not woken */
export function requireAwake(image: string, run: GuestRun): void {
  if (run.exitCode !== WAKE_FAILED || run.tail.at(-1) !== NOT_WOKEN) return;
  throw new BangerError('guest_failed', `Building ${image}: the kept machine got neither time nor a new seed.`, {
    hint: 'It is forgotten; build again, in a VM that is booted.',
    details: { wake: false },
  });
}

/** Ends at the first command that fails. */
function shell(script: string, env: Readonly<Record<string, string>>): string {
  return clean(['sh', '-ec', script], env);
}

function clean(argv: readonly string[], env: Readonly<Record<string, string>>): string {
  const assignments = Object.entries({ ...ENVIRONMENT, ...env }).map(([name, value]) => `${name}=${value}`);
  return shellCommand({ argv: ['env', '-i', ...assignments, ...argv] });
}

/** Passes on a bounded number of lines a second and says how many it left out. */
export function thinned(
  pass: (line: string) => void,
  now: () => number = () => performance.now(),
): (line: string) => void {
  let second = Number.NEGATIVE_INFINITY;
  let passed = 0;
  let left = 0;
  return (line) => {
    if (now() - second >= 1000) {
      if (left > 0) pass(`… ${left} lines left out`);
      second = now();
      passed = 0;
      left = 0;
    }
    if (passed++ < LINES_PER_SECOND) pass(line);
    else left++;
  };
}

/**
 * What a person needs of a step that failed: its name, how it ended, why as far as that can be read, its last lines.
 * @param telling a line it said long before
 */
export function stepError(
  image: string,
  label: string,
  run: GuestRun,
  timeoutMs: number,
  telling?: string,
): BangerError {
  const how = run.timedOut
    ? `did not end within ${formatDuration(timeoutMs)}`
    : run.signal !== null
      ? `was killed by ${run.signal}`
      : run.exitCode === null
        ? 'was cut off: the connection to the VM ended'
        : `ended with ${run.exitCode}`;
  const cause = run.timedOut ? undefined : causeOf(telling === undefined ? run.tail : [telling, ...run.tail]);
  const lines = run.tail.map((line) => `    ${line}`).join('\n');
  return new BangerError(
    run.timedOut ? 'timeout' : 'guest_failed',
    `Building ${image}: the step "${label}" ${how}${cause ? `: ${cause}` : ''}.${lines ? `\n  It said last:\n${lines}` : ''}`,
    {
      hint: run.timedOut
        ? 'Allow it more time with run_timeout, or look into its VM: repeat the build with --keep'
        : 'Look into its VM: repeat the build with --keep',
      details: { step: label, exitCode: run.exitCode, signal: run.signal, lines: run.tail },
    },
  );
}
