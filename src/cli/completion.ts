/**
 * Completion scripts made from the registry. What is fixed (commands, options, their values) stands in
 * the script, so that a key press costs no process; names of VMs and operations are asked for.
 */
import type { Command, OptionSpec } from './command.ts';
import { type Entry, NOUNS, namesOf } from './entry.ts';
import { longFlag, offFlag } from './parse.ts';

export type Shell = 'bash' | 'zsh' | 'fish';

interface Flag {
  long: string;
  short: string | undefined;
  help: string;
  takesValue: boolean;
  choices: readonly string[];
}

interface Known {
  entry: Entry;
  names: string[];
  command: Command;
  flags: Flag[];
}

const ASK_VMS = 'banger ls --names 2>/dev/null';
const ASK_OPERATIONS = 'banger operation list --ids 2>/dev/null';
const SHELLS = 'bash zsh fish';

export async function completionScript(shell: Shell, commands: readonly Entry[]): Promise<string> {
  const known = await Promise.all(
    commands.map(async (entry): Promise<Known> => {
      const { default: command } = await entry.load();
      return { entry, names: namesOf(entry), command, flags: flagsOf(command) };
    }),
  );
  return { bash: bashScript, zsh: zshScript, fish: fishScript }[shell](known);
}

function flagsOf(command: Command): Flag[] {
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
    default:
      return [{ ...flag, takesValue: true, choices: spec.choices ?? [] }];
  }
}

function plainFlag(long: string, short: string | undefined, help: string): Flag {
  return { long, short, help, takesValue: false, choices: [] };
}

/** First words: daily commands and nouns. */
function firstWords(known: readonly Known[]): string[] {
  const words = known.flatMap(({ names }) => names).filter((name) => !name.includes(' '));
  return [...words, ...Object.keys(NOUNS), 'help'];
}

function verbsOf(known: readonly Known[], noun: string): string[] {
  return known
    .flatMap(({ names }) => names)
    .flatMap((name) => (name.startsWith(`${noun} `) ? [name.slice(noun.length + 1)] : []));
}

/** Shell patterns of a command's names, e.g. `'vm start'|start`. */
function pattern({ names }: Known): string {
  return names.map((name) => `'${name}'`).join('|');
}

/** Command names that take what `kinds` says, as a shell pattern. */
function patternOf(known: readonly Known[], ...kinds: (Command['completes'] | 'shell')[]): string {
  const matching = known.filter(({ command, entry }) =>
    kinds.includes(entry.path === 'completion' ? 'shell' : command.completes),
  );
  return matching.map(pattern).join('|');
}

function bashScript(known: readonly Known[]): string {
  const verbs = Object.keys(NOUNS).map((noun) => `    ${noun}) echo '${verbsOf(known, noun).join(' ')}' ;;`);
  const flags = known.map(
    (one) =>
      `    ${pattern(one)}) echo '${one.flags.flatMap(({ long, short }) => (short ? [long, `-${short}`] : [long])).join(' ')}' ;;`,
  );
  const values = known.map((one) => `    ${pattern(one)}) echo '${valueFlags(one).join(' ')}' ;;`);
  return `# bash completion for banger; made by: banger completion bash
_banger_verbs() {
  case "$1" in
${verbs.join('\n')}
  esac
}
_banger_flags() {
  case "$1" in
${flags.join('\n')}
  esac
}
_banger_value_flags() {
  case "$1" in
${values.join('\n')}
  esac
}
_banger() {
  local cur=\${COMP_WORDS[COMP_CWORD]} line=\${COMP_LINE:0:COMP_POINT}
  # bash cuts words at colons, which paths in VMs have
  local word=\${line##*[[:space:]]} first=1 command i position=0 previous
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W '${firstWords(known).join(' ')} --help --version' -- "$cur"))
    return
  fi
  command=\${COMP_WORDS[1]}
  if [[ -n $(_banger_verbs "$command") ]]; then
    if ((COMP_CWORD == 2)); then
      COMPREPLY=($(compgen -W "$(_banger_verbs "$command")" -- "$cur"))
      return
    fi
    command="$command \${COMP_WORDS[2]}"
    first=2
  fi
  previous=\${COMP_WORDS[COMP_CWORD-1]}
  if [[ " $(_banger_value_flags "$command") " == *" $previous "* ]]; then
    COMPREPLY=($(compgen -f -- "$cur"))
    return
  fi
  for ((i = first + 1; i < COMP_CWORD; i++)); do
    [[ \${COMP_WORDS[i]} == -* || " $(_banger_value_flags "$command") " == *" \${COMP_WORDS[i-1]} "* ]] || ((position++))
  done
  case "$command" in
    ${known
      .filter(({ command }) => command.passThrough)
      .map(pattern)
      .join('|')})
      # after the name it is another program's command line
      if ((position > 0)); then COMPREPLY=($(compgen -f -- "$cur")); return; fi ;;
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$(_banger_flags "$command")" -- "$cur"))
    return
  fi
  case "$command" in
    ${patternOf(known, 'vm')}) COMPREPLY=($(compgen -W "$(${ASK_VMS})" -- "$cur")) ;;
    ${patternOf(known, 'operation')}) COMPREPLY=($(compgen -W "$(${ASK_OPERATIONS})" -- "$cur")) ;;
    ${patternOf(known, 'vm-path')})
      COMPREPLY=($(compgen -f -- "$cur"))
      if [[ $word != *[:/]* ]]; then
        compopt -o nospace
        COMPREPLY+=($(compgen -S : -W "$(${ASK_VMS})" -- "$cur"))
      fi ;;
    ${patternOf(known, 'shell')}) COMPREPLY=($(compgen -W '${SHELLS}' -- "$cur")) ;;
  esac
}
complete -F _banger banger`;
}

function valueFlags({ flags }: Known): string[] {
  return flags
    .filter(({ takesValue }) => takesValue)
    .flatMap(({ long, short }) => (short ? [long, `-${short}`] : [long]));
}

function zshScript(known: readonly Known[]): string {
  const described = (word: string, text: string) => zshQuoted(`${word}:${text}`);
  const first = known.flatMap(({ names, entry }) =>
    names.filter((name) => !name.includes(' ')).map((name) => described(name, entry.summary)),
  );
  const nouns = Object.entries(NOUNS).map(([noun, about]) => described(noun, about));
  const verbs = Object.keys(NOUNS).map((noun) => {
    const words = known.flatMap(({ names, entry }) =>
      names
        .filter((name) => name.startsWith(`${noun} `))
        .map((name) => described(name.slice(noun.length + 1), entry.summary)),
    );
    return `    ${noun}) verbs=(${words.join(' ')}) ;;`;
  });
  const cases = known.map((one) => `    ${pattern(one)}) _arguments -s ${zshArguments(one).join(' ')} ;;`);
  return `#compdef banger
# zsh completion for banger; made by: banger completion zsh
_banger_vms() {
  local -a names=(\${(f)"$(${ASK_VMS})"})
  compadd -a names
}
_banger_operations() {
  local -a ids=(\${(f)"$(${ASK_OPERATIONS})"})
  compadd -a ids
}
_banger_vm_paths() {
  local -a names=(\${(f)"$(${ASK_VMS})"})
  _alternative 'vms:VM:compadd -S : -a names' 'files:file:_files'
}
_banger() {
  # the name commands would hide the table of programs that zsh keeps under it
  local -a words_1 verbs
  local command
  words_1=(${[...first, ...nouns].join(' ')})
  if ((CURRENT == 2)); then
    _describe command words_1
    return
  fi
  command=$words[2]
  case "$command" in
${verbs.join('\n')}
  esac
  if (($#verbs)); then
    if ((CURRENT == 3)); then
      _describe command verbs
      return
    fi
    command="$command $words[3]"
    shift words
    ((CURRENT--))
  fi
  shift words
  ((CURRENT--))
  case "$command" in
${cases.join('\n')}
  esac
}
if [[ $funcstack[1] == _banger ]]; then _banger "$@"; else compdef _banger banger; fi`;
}

function zshArguments(one: Known): string[] {
  const flags = one.flags.flatMap(({ long, short, help, takesValue, choices }) => {
    const value = takesValue ? `:value:${choices.length > 0 ? `(${choices.join(' ')})` : '_files'}` : '';
    const text = `[${help.replace(/[[\]:]/g, '\\$&')}]${value}`;
    return [long, ...(short ? [`-${short}`] : [])].map((flag) => zshQuoted(`${flag}${text}`));
  });
  const positional = { vm: '_banger_vms', 'vm-path': '_banger_vm_paths', operation: '_banger_operations' };
  if (one.entry.path === 'completion') return [...flags, zshQuoted(`1:shell:(${SHELLS})`)];
  if (one.command.completes === undefined) return flags;
  if (one.command.passThrough) return [...flags, `'1:VM:_banger_vms'`, `'*:::command:_normal'`];
  return [...flags, zshQuoted(`*:name:${positional[one.command.completes]}`)];
}

function zshQuoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function fishScript(known: readonly Known[]): string {
  const lines = known.flatMap((one) => {
    const { names, entry, command, flags } = one;
    const named = names.flatMap((name) => {
      const [noun = '', verb] = name.split(' ');
      return verb === undefined
        ? [`complete -c banger -n __banger_first -a ${noun} -d ${fishQuoted(entry.summary)}`]
        : [`complete -c banger -n '__banger_after ${noun}' -a ${verb} -d ${fishQuoted(entry.summary)}`];
    });
    const when = fishQuoted(`__banger_in ${names.map((name) => `'${name}'`).join(' ')}`);
    const options = flags.map(({ long, short, help, takesValue, choices }) => {
      const value = takesValue ? ` -r${choices.length > 0 ? `f -a ${fishQuoted(choices.join(' '))}` : ''}` : '';
      return `complete -c banger -n ${when} -l ${long.slice(2)}${short ? ` -s ${short}` : ''}${value} -d ${fishQuoted(help)}`;
    });
    return [...named, ...options, ...fishPositional(when, entry, command)];
  });
  const nouns = Object.entries(NOUNS).map(
    ([noun, about]) => `complete -c banger -n __banger_first -a ${noun} -d ${fishQuoted(about)}`,
  );
  return `# fish completion for banger; made by: banger completion fish
function __banger_words
  set -l words (commandline -opc)
  string match -v -- '-*' $words[2..]
end
function __banger_first
  test (count (__banger_words)) -eq 0
end
function __banger_after
  set -l words (__banger_words)
  test (count $words) -eq 1 -a "$words[1]" = "$argv[1]"
end
function __banger_in
  set -l words (__banger_words)
  contains -- "$words[1..2]" $argv; or contains -- "$words[1]" $argv
end
complete -c banger -f
${[...nouns, ...lines].join('\n')}`;
}

function fishPositional(when: string, entry: Entry, command: Command): string[] {
  const rule = (what: string) => [`complete -c banger -n ${when} ${what}`];
  if (entry.path === 'completion') return rule(`-a '${SHELLS}'`);
  switch (command.completes) {
    case 'vm':
      return rule(`-a '(${ASK_VMS})'`);
    case 'vm-path':
      return rule(`-F -a '(${ASK_VMS} | string replace -r \\$ :)'`);
    case 'operation':
      return rule(`-a '(${ASK_OPERATIONS})'`);
    default:
      return [];
  }
}

function fishQuoted(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
}
