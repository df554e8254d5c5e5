/** Arguments to values: a commander command made from a command's plain data, then each text to its type. */
import { Command as CommanderCommand, CommanderError, Option } from 'commander';
import { nearest } from '../config/nearest.ts';
import { BangerError } from '../errors.ts';
import { MIB, parseDuration, parseSize } from '../units.ts';
import type { CommandShape, OptionSpec, Positional, RawInput } from './command-shape.ts';
import type { Output } from './terminal.ts';

export interface Parsed {
  input: RawInput;
  json: boolean;
  quiet: boolean;
}

/** Help was asked for instead of a run. */
export interface HelpText {
  help: string;
}

export interface ParseOptions {
  /** what the person typed to get here, e.g. `vm start` or `start` */
  typed: string;
  summary: string;
  /** every other way to write the command */
  otherNames: readonly string[];
  /** where help would go; gives width and colour */
  output: Output;
}

/** Widest help text; longer lines are hard to read on wide terminals. */
const MAX_HELP_COLUMNS = 100;

/** Options that every command has, the first one where there is data to print. */
const JSON_OPTION = { flags: '--json', help: 'print the result as JSON' };
const QUIET_OPTION = { flags: '-q, --quiet', help: 'say nothing but errors and what was asked for' };
const HELP_OPTION = { flags: '-h, --help', help: 'show this help' };

const PLACEHOLDERS: Record<Exclude<OptionSpec['type'], 'flag' | 'off' | 'switch'>, string> = {
  text: 'text',
  count: 'n',
  size: 'size',
  memory: 'size',
  duration: 'time',
  list: 'text',
};

/**
 * Parses what follows a command's name.
 * @throws BangerError `invalid_input` with the command's help as the hint
 */
export function parseCommand(command: CommandShape, argv: readonly string[], options: ParseOptions): Parsed | HelpText {
  const { own, behind } = cutAtDashes(command, argv);
  let help = '';
  const parser = new CommanderCommand(`banger ${options.typed}`)
    .description([`${options.summary}.`, command.description].filter(Boolean).join('\n\n'))
    .helpOption(HELP_OPTION.flags, HELP_OPTION.help)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => {
        help += text;
      },
      writeErr: () => {},
      outputError: () => {},
      getOutHelpWidth: () => helpWidth(options.output),
      getOutHasColors: () => false,
    });
  const positionals = command.positionals.filter((each) => positionalName(each) !== command.behindDashes);
  for (const positional of positionals) parser.argument(argumentSyntax(positional));
  if (command.behindDashes !== undefined) {
    const words = positionals.map((each) => argumentSyntax(each));
    parser.usage(['[options]', ...words, `[-- ${command.behindDashes}...]`].join(' '));
  }
  for (const [key, spec] of Object.entries(command.options)) {
    for (const option of commanderOptions(key, spec)) parser.addOption(option);
  }
  if (command.data) parser.option(JSON_OPTION.flags, JSON_OPTION.help);
  parser.option(QUIET_OPTION.flags, QUIET_OPTION.help);
  if (command.passThrough) parser.passThroughOptions();
  parser.addHelpText('after', helpTail(command, options));

  try {
    parser.parse(command.passThrough ? own : own.map((word) => switchWord(command, word)), { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return { help };
    const wanted = usageError(error, `banger ${options.typed} --help`);
    if (command.behindDashes === undefined || behind !== undefined) throw wanted;
    throw new BangerError(wanted.code, wanted.message, {
      hint: `${wanted.hint}   A command stands behind two dashes: banger ${options.typed} NAME -- COMMAND`,
    });
  }
  const values = parser.opts<Record<string, unknown>>();
  return {
    input: {
      args: namedArguments(command, [...parser.processedArgs, behind ?? []]),
      options: typedOptions(command, values),
    },
    json: values.json === true,
    quiet: values.quiet === true,
  };
}

/** The words of the command itself, and those behind `--` where a command takes them apart. */
function cutAtDashes(
  command: CommandShape,
  argv: readonly string[],
): { own: readonly string[]; behind: string[] | undefined } {
  const at = command.behindDashes === undefined ? -1 : argv.indexOf('--');
  return at < 0 ? { own: argv, behind: undefined } : { own: argv.slice(0, at), behind: argv.slice(at + 1) };
}

/** Flags of a command as help names them, e.g. `-m, --memory <size>`, with what they are for. */
export function describeOptions(command: CommandShape): { flags: string; help: string }[] {
  const own = Object.entries(command.options).flatMap(([key, spec]) => commanderOptions(key, spec));
  return [
    ...own.map(({ flags, description }) => ({ flags, help: description })),
    ...(command.data ? [JSON_OPTION] : []),
    QUIET_OPTION,
    HELP_OPTION,
  ];
}

export function helpWidth(output: Output): number {
  return Math.min(output.columns ?? 80, MAX_HELP_COLUMNS);
}

/** A commander error in our words: what is wrong, and the help or the word that was probably meant. */
export function usageError(error: CommanderError, helpCommand: string): BangerError {
  const [first = '', suggestion] = error.message.replace(/^error: /, '').split('\n');
  const message = first.charAt(0).toUpperCase() + first.slice(1).replace(/\.$/, '').replaceAll("'", '`');
  const meant = /Did you mean (?:one of )?(.{1,500})\?\)/.exec(suggestion ?? '')?.[1];
  return new BangerError('invalid_input', `${message}.`, {
    hint: meant === undefined ? helpCommand : `Did you mean ${meant}? See: ${helpCommand}`,
  });
}

/** `--nat=false` as `--no-nat`, and `--nat=true` as `--nat`: what people write who know other tools. */
function switchWord(command: CommandShape, word: string): string {
  const [, name = '', value = ''] = /^--([a-z-]+)=(true|yes|on|false|no|off)$/.exec(word) ?? [];
  const key = Object.keys(command.options).find((each) => kebabCase(each) === name);
  if (key === undefined || command.options[key]?.type !== 'switch') return word;
  return /^(true|yes|on)$/.test(value) ? `--${name}` : offFlag(key);
}

/** The long flag of an option key: `workDisk` is `--work-disk`, and `--no-work-disk` when it turns something off. */
export function longFlag(key: string, spec: OptionSpec): string {
  return spec.type === 'off' ? offFlag(key) : `--${kebabCase(key)}`;
}

export function offFlag(key: string): string {
  return `--no-${kebabCase(key)}`;
}

function kebabCase(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

export function positionalName(positional: Positional): string {
  return positional.replace(/^\[|\]$/g, '').replace(/\.\.\.$/, '');
}

function argumentSyntax(positional: Positional): string {
  return positional.startsWith('[') ? positional : `<${positional}>`;
}

function commanderOptions(key: string, spec: OptionSpec): Option[] {
  const long = longFlag(key, spec);
  const flags = spec.short === undefined ? long : `-${spec.short}, ${long}`;
  const help = 'choices' in spec && spec.choices ? `${spec.help}: ${spec.choices.join(', ')}` : spec.help;
  const withDefault = spec.default === undefined ? help : `${help} (default: ${spec.default})`;
  switch (spec.type) {
    case 'flag':
    case 'off':
      return [new Option(flags, withDefault)];
    case 'switch':
      return [new Option(flags, withDefault), new Option(`-${spec.offShort}, ${offFlag(key)}`, spec.offHelp)];
  }
  const option = new Option(`${flags} <${spec.placeholder ?? PLACEHOLDERS[spec.type]}>`, withDefault);
  if (spec.type === 'list') option.argParser((value, before: string[] | undefined) => [...(before ?? []), value]);
  return [option];
}

function helpTail(command: CommandShape, { typed, otherNames }: ParseOptions): string {
  const lines = ['', 'Examples:', ...command.examples.map((example) => `  banger ${example}`)];
  const others = otherNames.filter((name) => name !== typed);
  if (others.length > 0) lines.push('', `Also written: ${others.map((name) => `banger ${name}`).join(', ')}`);
  return lines.join('\n');
}

function namedArguments(command: CommandShape, values: readonly unknown[]): RawInput['args'] {
  const entries = command.positionals.map((positional, index) => [positionalName(positional), values[index]]);
  return Object.fromEntries(entries) as RawInput['args'];
}

function typedOptions(command: CommandShape, values: Record<string, unknown>): RawInput['options'] {
  const entries = Object.entries(command.options).map(([key, spec]) => [key, typedOption(key, spec, values[key])]);
  return Object.fromEntries(entries) as RawInput['options'];
}

function typedOption(key: string, spec: OptionSpec, value: unknown): RawInput['options'][string] {
  switch (spec.type) {
    case 'flag':
      return value === true;
    case 'off':
      return value === false; // commander's own view of `--no-x` is that x is true until it is given
    case 'switch':
      return typeof value === 'boolean' ? value : undefined;
    case 'list':
      return Array.isArray(value) ? value.map(String) : [];
    default:
      if (typeof value !== 'string') return undefined;
  }
  const flag = longFlag(key, spec);
  if (spec.choices && !spec.choices.includes(value)) throw wrongChoice(flag, value, spec.choices);
  switch (spec.type) {
    case 'text':
      return value;
    case 'count':
      if (/^\d{1,15}$/.test(value)) return Number(value);
      throw new BangerError('invalid_input', `${flag}: "${value}" is not a whole number.`, { hint: `${flag} 2` });
    case 'size':
      return spec.orNone && value === 'none' ? 0 : named(flag, () => parseSize(value));
    case 'memory':
      return named(flag, () => parseMemoryMib(value));
    case 'duration':
      return named(flag, () => parseDuration(value));
  }
}

/** MiB of a size; a bare number counts MiB, as with every tool that takes memory. */
function parseMemoryMib(text: string): number {
  const mib = /^\s*\d+\s*$/.test(text) ? Number(text) : parseSize(text) / MIB;
  if (Number.isSafeInteger(mib)) return mib;
  throw new BangerError('invalid_input', `"${text}" is not a whole number of MiB.`, {
    hint: 'Write it as 512M or 2G.',
  });
}

function named<T>(flag: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof BangerError)) throw error;
    throw error.reworded(`${flag}: ${error.message}`);
  }
}

function wrongChoice(flag: string, value: string, choices: readonly string[]): BangerError {
  const meant = nearest(value, choices);
  return new BangerError('invalid_input', `${flag}: "${value}" is none of ${choices.join(', ')}.`, {
    hint: `${flag} ${meant ?? choices[0]}`,
  });
}
