/**
 * What a command takes, as plain data: parser, help and completion are all made from it, so that a command needs no
 * library and loads at once.
 */

/**
 * Positional arguments as help shows them: `name` is required, `[name]` may be missing, `names...`
 * takes one or more and `[words...]` any number.
 */
export type Positional = string;

/**
 * What a word of a command line is. Things that have names are asked of the daemon; `vm-path` is a file here or in a VM.
 * Where a name may stand, a file or directory is a path with a slash.
 */
export type WordKind =
  | 'vm'
  | 'vm-path'
  | 'trashed-vm'
  | 'kept-disk'
  | 'snapshot'
  | 'image'
  | 'bundle'
  | 'operation'
  | 'vmm-release'
  | 'file'
  | 'directory';

/** What completion offers for a word: whatever there is of some kinds, or these words; one that ends in `=` goes on. */
export type Completes = readonly WordKind[] | { words: readonly string[] };

interface OptionBase {
  /** one letter */
  short?: string;
  /** sentence without its final dot */
  help: string;
  /** what applies without the option, where that is not obvious; shown in help only */
  default?: string;
}

interface ValueOption extends OptionBase {
  /**
   * `text` as it is, `count` whole number, `size` in bytes, `memory` in MiB, `duration` in `ms`,
   * `list` any number of texts, the option being given once for each
   */
  type: 'text' | 'count' | 'size' | 'memory' | 'duration' | 'list';
  /** name of the value in help; by type otherwise */
  placeholder?: string;
  /** the only values it takes, for help, checks and completion */
  choices?: readonly string[];
  /** what its value is, for completion; one that takes `choices` needs none */
  completes?: Completes;
  /** whether a `size` may be `none`, which is 0 */
  orNone?: true;
}

interface FlagOption extends OptionBase {
  /** `off` is written with `--no-` before its name and is true when given */
  type: 'flag' | 'off';
}

/** `--name` and `--no-name`; undefined when neither was given, and the last one counts. */
interface SwitchOption extends OptionBase {
  type: 'switch';
  /** one letter for `--no-name` */
  offShort: string;
  /** sentence about `--no-name` without its final dot */
  offHelp: string;
}

export type OptionSpec = ValueOption | FlagOption | SwitchOption;
export type OptionSpecs = Record<string, OptionSpec>;

export type OptionValues<O extends OptionSpecs> = {
  [K in keyof O]: O[K]['type'] extends 'flag' | 'off'
    ? boolean
    : O[K]['type'] extends 'switch'
      ? boolean | undefined
      : O[K]['type'] extends 'list'
        ? string[]
        : O[K]['type'] extends 'text'
          ? string | undefined
          : number | undefined;
};

export type ArgValues<P extends readonly Positional[]> = {
  [T in P[number] as ArgName<T>]: T extends `${string}...` | `[${string}...]`
    ? string[]
    : T extends `[${string}]`
      ? string | undefined
      : string;
};

export type ArgName<T extends string> = T extends `[${infer N}...]`
  ? N
  : T extends `${infer N}...`
    ? N
    : T extends `[${infer N}]`
      ? N
      : T;

/** What is known of a command without running it. */
export interface CommandShape {
  positionals: readonly Positional[];
  options: OptionSpecs;
  /** one sentence or more that help shows below the summary */
  description: string | undefined;
  /** command lines without the leading `banger` */
  examples: readonly string[];
  /** what its positionals are, for completion; one that is missing here is made up by whoever types it */
  completes: Readonly<Partial<Record<string, Completes>>>;
  /** everything after the first positional belongs to another program and is passed on unread */
  passThrough: boolean;
  /** its last positional, which takes every word behind `--` and no other */
  behindDashes: string | undefined;
  /** false for a command that has nothing `--json` could print */
  data: boolean;
}

/** What the parser found; the types of the command's own specification apply inside it. */
export interface RawInput {
  args: Record<string, string | string[] | undefined>;
  options: Record<string, boolean | string | string[] | number | undefined>;
}
