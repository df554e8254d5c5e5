/** Completion for zsh, as a file in `$fpath` or sourced. */
import { NOUNS } from '../entry.ts';
import { type Argument, type Flag, type Known, type Offer, pattern, QUESTIONS, spellings, verbsOf } from './known.ts';

export function zshScript(known: readonly Known[]): string {
  const described = (word: string, text: string) => quoted(`${word}:${text}`);
  const questions = Object.entries(QUESTIONS).map(([kind, question]) => `    @${kind}) ${question} ;;`);
  const first = known.flatMap(({ names, summary }) =>
    names.filter((name) => !name.includes(' ')).map((name) => described(name, summary)),
  );
  const nouns = Object.entries(NOUNS).map(([noun, about]) => described(noun, about));
  const help = described('help', 'Show how to use a command');
  const verbs = Object.keys(NOUNS).map(
    (noun) =>
      `    ${noun}) verbs=(${verbsOf(known, noun)
        .map(({ verb, summary }) => described(verb, summary))
        .join(' ')}) ;;`,
  );
  const cases = known.map((one) => `    ${pattern(one.names)}) _arguments -s ${specs(one).join(' ')} ;;`);
  return `#compdef banger
# zsh completion for banger; made by: banger completion zsh
_banger_ask() {
  case "$1" in
${questions.join('\n')}
  esac 2>/dev/null
}
# words that are what the arguments say
_banger_offer() {
  local what
  local -a names
  local -i named=0 ret=1
  for what; do
    case "$what" in
      # where a name may stand, a path has a slash
      @file) if (( ! named )) || [[ $PREFIX == */* ]]; then _files && ret=0; fi ;;
      @directory) if (( ! named )) || [[ $PREFIX == */* ]]; then _files -/ && ret=0; fi ;;
      @vm-path)
        names=(\${(f)"$(_banger_ask @vm)"})
        if [[ $PREFIX != *[:/]* ]]; then compadd -S : -a names && ret=0; fi
        _files && ret=0 ;;
      @*)
        named=1
        names=(\${(f)"$(_banger_ask $what)"})
        compadd -a names && ret=0 ;;
      *=) compadd -S '' -- "$what" && ret=0 ;;
      *) compadd -- "$what" && ret=0 ;;
    esac
  done
  return ret
}
_banger() {
  # the name commands would hide the table of programs that zsh keeps under it
  local -a words_1 verbs
  local command
  words_1=(${[...first, ...nouns, help].join(' ')})
  while ((CURRENT > 2)) && [[ $words[2] == -* ]]; do
    shift words
    ((CURRENT--))
  done
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

/** Options and arguments as `_arguments` takes them. */
function specs({ flags, args, passThrough, behindDashes }: Known): string[] {
  const positionals = args.map((arg, position) => {
    if (passThrough && position > 0) return '*:::command:_normal';
    if (!behindDashes) return argumentSpec(arg, position);
    // what may be left out would be offered together with what comes behind the dashes
    return position === args.length - 1 ? '*:command:_files' : argumentSpec({ ...arg, optional: false }, position);
  });
  return [...flags.flatMap(flagSpecs), ...positionals].map(quoted);
}

function flagSpecs(flag: Flag): string[] {
  const all = spellings(flag);
  const once = flag.repeats ? '*' : all.length > 1 ? `(${all.join(' ')})` : '';
  return all.map((spelling) => {
    // its value may stand in the same word or in the next one
    const joint = flag.value === undefined ? '' : spelling === flag.long ? '=' : '+';
    const value = flag.value === undefined ? '' : `:${flag.value.name}:${action(flag.value.offers)}`;
    return `${once}${spelling}${joint}[${flag.help.replace(/[[\]:]/g, '\\$&')}]${value}`;
  });
}

function argumentSpec({ name, rest, optional, offers }: Argument, position: number): string {
  return `${rest ? '*' : position + 1}:${optional && !rest ? ':' : ''}${name}:${action(offers)}`;
}

/** A space says that there is nothing to offer. */
function action(offers: readonly Offer[]): string {
  return offers.length === 0 ? ' ' : ` _banger_offer ${offers.join(' ')}`;
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
