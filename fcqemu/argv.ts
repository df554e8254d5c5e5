/** The command line: Firecracker's flags, grammar and error texts. */
import { debugText } from './json/scanner.ts';

/** Version reported everywhere: the release of Firecracker whose API this is, with a build suffix that says who answers. */
export const VERSION = '1.16.1+fcqemu';

/** Largest request body in bytes unless `--http-api-max-payload-size` says otherwise. */
const DEFAULT_PAYLOAD_LIMIT = 51_200;

interface Flag {
  takesValue?: boolean;
  defaultValue?: string;
  requires?: string;
  forbids?: string;
  help: string;
}

const FLAGS: Record<string, Flag> = {
  'api-sock': {
    takesValue: true,
    defaultValue: '/run/firecracker.socket',
    help: 'Path to unix domain socket used by the API.',
  },
  'boot-timer': {
    help: 'Whether or not to load boot timer device for logging elapsed time since InstanceStart command.',
  },
  'config-file': {
    takesValue: true,
    help: 'Path to a file that contains the microVM configuration in JSON format.',
  },
  'describe-snapshot': {
    takesValue: true,
    help: 'Print the data format version of the provided snapshot state file.',
  },
  'enable-pci': { help: 'Enables PCIe support.' },
  'http-api-max-payload-size': {
    takesValue: true,
    defaultValue: String(DEFAULT_PAYLOAD_LIMIT),
    help: 'Http API request payload max size, in bytes.',
  },
  id: { takesValue: true, defaultValue: 'anonymous-instance', help: 'MicroVM unique identifier.' },
  level: { takesValue: true, help: 'Set the logger level.' },
  'log-path': { takesValue: true, help: 'Path to a fifo or a file used for configuring the logger on startup.' },
  metadata: {
    takesValue: true,
    help: 'Path to a file that contains metadata in JSON format to add to the mmds.',
  },
  'metrics-path': {
    takesValue: true,
    help: 'Path to a fifo or a file used for configuring the metrics on startup.',
  },
  'mmds-size-limit': { takesValue: true, help: 'Mmds data store limit, in bytes.' },
  module: { takesValue: true, help: 'Set the logger module filter.' },
  'no-api': {
    requires: 'config-file',
    help: 'Optional parameter which allows starting and using a microVM without an active API socket.',
  },
  'no-seccomp': {
    forbids: 'seccomp-filter',
    help: 'Optional parameter which allows starting and using a microVM without seccomp filtering. Not recommended.',
  },
  'parent-cpu-time-us': {
    takesValue: true,
    help: 'Parent process CPU time (wall clock, microseconds). This parameter is optional.',
  },
  'seccomp-filter': {
    takesValue: true,
    forbids: 'no-seccomp',
    help: 'Optional parameter which allows specifying the path to a custom seccomp filter. For advanced users.',
  },
  'show-level': { help: 'Whether or not to output the level in the logs.' },
  'show-log-origin': {
    help: "Whether or not to include the file path and line number of the log's origin.",
  },
  'snapshot-version': { help: 'Print the supported data format version.' },
  'start-time-cpu-us': {
    takesValue: true,
    help: 'Process start CPU time (wall clock, microseconds). This parameter is optional.',
  },
  'start-time-us': {
    takesValue: true,
    help: 'Process start time (wall clock, microseconds). This parameter is optional.',
  },
  version: { help: 'Print the binary version number.' },
};

/** A command line that is refused; `debug` is the form Rust prints to standard error. */
export class ArgumentError extends Error {
  readonly debug: string;

  constructor(variant: string, names: string[], message: string) {
    super(message);
    this.name = 'ArgumentError';
    this.debug = `${variant}(${names.map(debugText).join(', ')})`;
  }
}

export interface Arguments {
  has(flag: string): boolean;
  /** the given value, else the default */
  value(flag: string): string | undefined;
}

/**
 * Parses the arguments after the program's name. `--help` and `--version` win over every mistake, and
 * everything behind `--` is left to others.
 * @throws ArgumentError
 */
export function parseArguments(argv: readonly string[]): Arguments {
  const separator = argv.indexOf('--');
  const own = separator === -1 ? argv : argv.slice(0, separator);
  const winner =
    own.includes('--help') || own.includes('-h') ? 'help' : own.includes('--version') ? 'version' : undefined;
  if (winner) return { has: (flag) => flag === winner, value: () => undefined };

  const given = new Map<string, string>();
  const rest = own[Symbol.iterator]();
  for (const argument of rest) {
    const name = argument.startsWith('--') ? argument.slice(2) : undefined;
    const flag = name === undefined ? undefined : Object.hasOwn(FLAGS, name) ? FLAGS[name] : undefined;
    if (name === undefined || !flag) {
      const shown = name ?? argument;
      throw new ArgumentError(
        'UnexpectedArgument',
        [shown],
        `Found argument '${shown}' which wasn't expected, or isn't valid in this context.`,
      );
    }
    if (given.has(name)) {
      throw new ArgumentError('DuplicateArgument', [name], `The argument '${name}' was provided more than once.`);
    }
    const value = flag.takesValue ? rest.next().value : '';
    if (value === undefined || value.startsWith('--')) {
      throw new ArgumentError(
        'MissingValue',
        [name],
        `The argument '${name}' requires a value, but none was supplied.`,
      );
    }
    given.set(name, value);
  }
  checkCombinations(given);
  return {
    has: (flag) => given.has(flag),
    value: (flag) => given.get(flag) ?? FLAGS[flag]?.defaultValue,
  };
}

function checkCombinations(given: Map<string, string>): void {
  for (const [name, flag] of Object.entries(FLAGS)) {
    if (!given.has(name)) continue;
    if (flag.requires && !given.has(flag.requires)) {
      throw new ArgumentError(
        'MissingArgument',
        [flag.requires],
        `Argument '${flag.requires}' required, but not found.`,
      );
    }
    if (flag.forbids && given.has(flag.forbids)) {
      throw new ArgumentError(
        'ForbiddenArgument',
        [name, flag.forbids],
        `Argument '${flag.forbids}' cannot be used together with argument '${name}'.`,
      );
    }
  }
}

/** The table that `--help` prints. */
export function helpText(): string {
  const rows = Object.entries({ ...FLAGS, help: { help: 'Show the help message.' } satisfies Flag } as typeof FLAGS)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, { takesValue, defaultValue, help }]): [left: string, right: string] => [
      takesValue ? `  --${name} <${name}>` : `  --${name}`,
      defaultValue === undefined ? help : `${help} [default: "${defaultValue}"]`,
    ]);
  const width = Math.max(...rows.map(([left]) => left.length));
  return `optional arguments:\n${rows.map(([left, right]) => `${left.padEnd(width)}   ${right}`).join('\n')}`;
}

/** @returns what is wrong with an instance id, in the words of Firecracker's panic; undefined when it is valid */
export function instanceIdProblem(id: string): string | undefined {
  const length = Buffer.byteLength(id);
  if (length < 1 || length > 64) return `InvalidLen(${length}, 1, 64)`;
  for (const [at, char] of [...id].entries()) {
    if (!/[\p{Alphabetic}\p{N}-]/u.test(char)) return `InvalidChar('${char}', ${at})`;
  }
  return undefined;
}
