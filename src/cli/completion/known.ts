/** Commands as completion sees them, the same for every shell. */
import type { CommandShape, Completes, OptionSpec, WordKind } from '../command-shape.ts';
import { type Entry, NOUNS, namesOf } from '../entry.ts';
import { longFlag, offFlag, positionalName } from '../parse.ts';

/** What a shell is told to offer for a word: `@` and a kind, or the word itself. */
export type Offer = `@${WordKind}` | (string & {});

export interface Flag {
  long: string;
  short: string | undefined;
  help: string;
  /** undefined for an option that takes no value */
  value: { name: string; offers: readonly Offer[] } | undefined;
  /** may be given again */
  repeats: boolean;
}

export interface Argument {
  name: string;
  /** this one and all that follow it */
  rest: boolean;
  optional: boolean;
  offers: readonly Offer[];
}

export interface Known {
  summary: string;
  names: string[];
  flags: Flag[];
  args: Argument[];
  /** what follows the first argument is another program's command line */
  passThrough: boolean;
  /** what follows `--` is another program's command line */
  behindDashes: boolean;
}

/** How to ask for the names there are of a kind, without a daemon where none runs. */
export const QUESTIONS = {
  vm: 'banger ls --names',
  'trashed-vm': 'banger trash list --names',
  'kept-disk': 'banger disk list --kept --names',
  snapshot: 'banger snapshot list --names',
  image: 'banger image list --names',
  bundle: 'banger bundle list --names',
  operation: 'banger operation list --ids',
  'vmm-release': 'banger vmm list --names',
} as const satisfies Partial<Record<WordKind, string>>;

export async function describeCommands(commands: readonly Entry[]): Promise<Known[]> {
  return await Promise.all(
    commands.map(async (entry): Promise<Known> => {
      const { default: command } = await entry.load();
      const { passThrough } = command;
      return {
        summary: entry.summary,
        names: namesOf(entry),
        flags: flagsOf(command),
        args: argumentsOf(command),
        passThrough,
        behindDashes: command.behindDashes !== undefined,
      };
    }),
  );
}

function argumentsOf(command: CommandShape): Argument[] {
  return command.positionals.map((positional) => {
    const name = positionalName(positional);
    return {
      name,
      rest: /\.\.\.\]?$/.test(positional),
      optional: positional.startsWith('['),
      offers: offersOf(command.completes[name]),
    };
  });
}

function flagsOf(command: CommandShape): Flag[] {
  const own = Object.entries(command.options).flatMap(([key, spec]) => flagsOfOption(key, spec));
  const common: Flag[] = [
    ...(command.data ? [plainFlag('--json', undefined, 'print the result as JSON')] : []),
    plainFlag('--quiet', 'q', 'say nothing but errors and what was asked for'),
    plainFlag('--help', 'h', 'show this help'),
  ];
  return [...own, ...common];
}

function flagsOfOption(key: string, spec: OptionSpec): Flag[] {
  const flag = plainFlag(longFlag(key, spec), spec.short, spec.help);
  switch (spec.type) {
    case 'flag':
    case 'off':
      return [flag];
    case 'switch':
      return [flag, plainFlag(offFlag(key), spec.offShort, spec.offHelp)];
    default: {
      const completes = spec.completes ?? (spec.choices ? { words: spec.choices } : undefined);
      const value = { name: spec.placeholder ?? 'value', offers: offersOf(completes) };
      return [{ ...flag, value, repeats: spec.type === 'list' }];
    }
  }
}

function plainFlag(long: string, short: string | undefined, help: string): Flag {
  return { long, short, help, value: undefined, repeats: false };
}

function offersOf(completes: Completes | undefined): readonly Offer[] {
  if (completes === undefined) return [];
  return 'words' in completes ? completes.words : completes.map((kind) => `@${kind}` as const);
}

/** A flag in each of its spellings. */
export function spellings({ long, short }: Flag): string[] {
  return short === undefined ? [long] : [long, `-${short}`];
}

/** First words: daily commands and nouns. */
export function firstWords(known: readonly Known[]): string[] {
  const words = known.flatMap(({ names }) => names).filter((name) => !name.includes(' '));
  return [...words, ...Object.keys(NOUNS), 'help'];
}

/** What may follow a noun, each with its command. */
export function verbsOf(known: readonly Known[], noun: string): { verb: string; summary: string }[] {
  return known.flatMap(({ names, summary }) =>
    names.filter((name) => name.startsWith(`${noun} `)).map((name) => ({ verb: name.slice(noun.length + 1), summary })),
  );
}

/** A case of `case … in`, in bash and zsh: any of these texts. */
export function pattern(texts: readonly string[]): string {
  return texts.map((text) => `'${text}'`).join('|');
}
