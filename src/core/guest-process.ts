/** The process of an OCI image as its VM runs it: what the image says, and what was asked for instead. */

/** What an image says. */
export interface ImageProcess {
  entrypoint: readonly string[];
  cmd: readonly string[];
  /** `NAME=VALUE` */
  env: readonly string[];
  user: string;
  workdir: string;
  /** name or number of a signal */
  stopSignal: string;
  /** HEALTHCHECK as images have it: `CMD` or `CMD-SHELL` and words, `NONE`; null for none */
  healthcheck: readonly string[] | null;
  healthTimes?: HealthTimes | undefined;
}

/** What the image says of its HEALTHCHECK; what it does not say has Docker's defaults. */
export interface HealthTimes {
  intervalMs?: number | undefined;
  timeoutMs?: number | undefined;
  startPeriodMs?: number | undefined;
  startIntervalMs?: number | undefined;
  retries?: number | undefined;
}

/** What was asked for when the VM was made; what is left out is the image's. */
export interface ProcessRequest {
  /** an empty one takes away that of the image */
  entrypoint?: string[] | undefined;
  cmd?: string[] | undefined;
  /** added to that of the image, by name */
  env?: string[] | undefined;
  user?: string | undefined;
  workdir?: string | undefined;
}

export interface GuestProcess {
  /** empty when nothing is to run beside what the guest itself begins */
  argv: string[];
  env: string[];
  user: string;
  workdir: string;
  stopSignal: number;
  /** undefined when nobody asks whether it is well */
  health: GuestHealth | undefined;
}

export interface GuestHealth extends Required<{ [Key in keyof HealthTimes]: number }> {
  argv: string[];
}

/** As Docker has them. */
const HEALTH_DEFAULTS = {
  ...{ intervalMs: 30_000, timeoutMs: 30_000, startPeriodMs: 0, startIntervalMs: 5000, retries: 3 },
};
/** Where the image has none, the agent takes its own. */
const GUEST_SHELL = '/bin/sh';
const LONGEST_HEALTH_MS = 24 * 60 * 60_000;

/** Linux on x86 and ARM (asm-generic/signal.h). */
const SIGNALS = [
  ...['', 'HUP', 'INT', 'QUIT', 'ILL', 'TRAP', 'ABRT', 'BUS', 'FPE', 'KILL', 'USR1', 'SEGV', 'USR2', 'PIPE', 'ALRM'],
  ...['TERM', 'STKFLT', 'CHLD', 'CONT', 'STOP', 'TSTP', 'TTIN', 'TTOU', 'URG', 'XCPU', 'XFSZ', 'VTALRM', 'PROF'],
  ...['WINCH', 'IO', 'PWR', 'SYS'],
];
const RTMIN = 34;

/** Inits that images name as their process: process 1 is one anyway. */
const INITS = new Set([
  '/sbin/init',
  '/usr/sbin/init',
  '/lib/systemd/systemd',
  '/usr/lib/systemd/systemd',
  '/bin/systemd',
  'systemd',
]);
/** A shell that is given nothing to read ends at once. */
const SHELLS = new Set(['sh', 'bash', 'ash', 'dash', 'zsh', 'fish', 'busybox']);

/** What runs, by the rules of Docker: an entrypoint that is asked for takes the image's command away. */
export function resolveProcess(image: ImageProcess, request: ProcessRequest): GuestProcess {
  const entrypoint = request.entrypoint ?? image.entrypoint;
  const cmd = request.cmd ?? (request.entrypoint === undefined ? image.cmd : []);
  const env = new Map<string, string>();
  for (const pair of [...image.env, ...(request.env ?? [])]) env.set(pair.split('=', 1)[0] ?? '', pair);
  const words = [...entrypoint, ...cmd];
  const argv = isIdle(words) ? [] : words;
  return {
    argv,
    env: [...env.values()].filter((pair) => /^[^=]+=/.test(pair)),
    user: request.user ?? image.user,
    workdir: request.workdir ?? (image.workdir || '/'),
    stopSignal: signalNumber(image.stopSignal),
    health: argv.length === 0 ? undefined : resolveHealth(image),
  };
}

function resolveHealth({ healthcheck, healthTimes }: ImageProcess): GuestHealth | undefined {
  const [kind, ...words] = healthcheck ?? [];
  const argv = kind === 'CMD-SHELL' ? [GUEST_SHELL, '-c', words.join(' ')] : kind === 'CMD' ? words : [];
  if (words.length === 0 || argv.length === 0) return undefined;
  const limited = (value: number | undefined, fallback: number, least: number) =>
    value === undefined || value <= 0 ? fallback : Math.min(Math.max(Math.round(value), least), LONGEST_HEALTH_MS);
  const given = healthTimes ?? {};
  const { intervalMs, timeoutMs, startPeriodMs, startIntervalMs, retries } = HEALTH_DEFAULTS;
  return {
    argv,
    intervalMs: limited(given.intervalMs, intervalMs, 100),
    timeoutMs: limited(given.timeoutMs, timeoutMs, 100),
    startPeriodMs: limited(given.startPeriodMs, startPeriodMs, 0),
    startIntervalMs: limited(given.startIntervalMs, startIntervalMs, 100),
    retries: limited(given.retries, retries, 1),
  };
}

function isIdle(argv: readonly string[]): boolean {
  const [program = ''] = argv;
  if (INITS.has(program)) return true;
  return argv.length === 1 && SHELLS.has(program.split('/').at(-1) ?? '');
}

/** SIGTERM for what is none. */
function signalNumber(text: string): number {
  const name = text.toUpperCase().replace(/^SIG/, '');
  if (/^\d{1,2}$/.test(name)) return Number(name) >= 1 && Number(name) <= 64 ? Number(name) : 15;
  const [, offset] = /^RTMIN(?:\+(\d{1,2}))?$/.exec(name) ?? [];
  if (name.startsWith('RTMIN')) return RTMIN + Number(offset ?? 0);
  const number = SIGNALS.indexOf(name);
  return number > 0 ? number : 15;
}

/** What the guest reads it from: records with a zero byte behind each; one that has such a byte in it is left out. */
export function describeProcess({ argv, env, user, workdir, stopSignal, health }: GuestProcess): string {
  const records = [
    ...argv.map((word) => `arg=${word}`),
    ...env.map((pair) => `env=${pair}`),
    `user=${user}`,
    `directory=${workdir}`,
    `stop=${stopSignal}`,
    ...(health === undefined ? [] : healthRecords(health)),
  ];
  return records
    .filter((record) => !record.includes('\0'))
    .map((record) => `${record}\0`)
    .join('');
}

function healthRecords({ argv, ...times }: GuestHealth): string[] {
  const { intervalMs, timeoutMs, startPeriodMs, startIntervalMs, retries } = times;
  return [
    ...argv.map((word) => `check=${word}`),
    `check-interval=${intervalMs}`,
    `check-timeout=${timeoutMs}`,
    `check-start=${startPeriodMs}`,
    `check-start-interval=${startIntervalMs}`,
    `check-retries=${retries}`,
  ];
}

/** Where nothing of an image may be put aside: what the guest itself mounts, and what boots it. */
const NO_VOLUMES = /^\/(?:$|proc|sys|dev|run|boot|etc|usr|bin|sbin|lib)(?:\/|$)/;

/** VOLUMEs that the work disk keeps, one a line; those that lie on it anyway, and those that cannot, are left out. */
export function describeVolumes(volumes: readonly string[], workMount: string): string {
  const kept = volumes.filter((path) => {
    const plain =
      /^\/[\w.@+-]+(?:\/[\w.@+-]+){0,40}\/?$/.test(path) && !path.split('/').some((part) => /^\.{1,2}$/.test(part));
    return plain && !NO_VOLUMES.test(path) && path !== workMount && !path.startsWith(`${workMount}/`);
  });
  // those above others first
  const sorted = [...new Set(kept.map((path) => path.replace(/\/$/, '')))].sort();
  return sorted.map((path) => `${path}\n`).join('');
}

/** The environment for shells. */
export function describeEnvironment({ env }: GuestProcess): string {
  const lines = env.flatMap((pair) => {
    const [, name, value] = /^([A-Za-z_]\w{0,250})=(.*)$/s.exec(pair) ?? [];
    if (name === undefined || value === undefined || value.includes('\0')) return [];
    return [`export ${name}='${value.replaceAll("'", `'\\''`)}'\n`];
  });
  return lines.join('');
}

/** A unit for images whose init is systemd. */
export function describeUnit({ stopSignal, health }: GuestProcess): string {
  return `# Made by banger's initrd at each boot, gone with it: the process of the image.
[Unit]
Description=Process of the image
After=network.target
${health === undefined ? '' : 'Wants=banger-health.service\n'}[Service]
ExecStart=/run/banger/agent --service
ExecStartPost=-/run/banger/busybox sh -c 'echo banger-init: service started > /dev/console'
ExecStopPost=-/run/banger/busybox sh -c 'test $$EXIT_CODE = exited && how=status || how=signal; echo banger-init: service ended with $$how $$EXIT_STATUS > /dev/console'
Restart=on-failure
RestartSec=1
KillSignal=${stopSignal}
StandardOutput=journal+console
StandardError=journal+console
[Install]
WantedBy=multi-user.target
`;
}

/** A unit beside it that asks whether it is well; empty where nobody is to ask. */
export function describeHealthUnit({ health }: GuestProcess): string {
  if (health === undefined) return '';
  return `# Made by banger's initrd at each boot, gone with it: the HEALTHCHECK of the image.
[Unit]
Description=Health of the process of the image
BindsTo=banger-process.service
After=banger-process.service
[Service]
ExecStart=/run/banger/agent --health
ExecStopPost=-/run/banger/busybox rm -f /run/banger/health-state
`;
}
