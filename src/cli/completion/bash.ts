/** Completion for bash 4.4 and later, which needs nothing of the bash-completion package. */
import { NOUNS } from '../entry.ts';
import { type Argument, type Flag, firstWords, type Known, pattern, QUESTIONS, spellings, verbsOf } from './known.ts';

export function bashScript(known: readonly Known[]): string {
  const questions = Object.entries(QUESTIONS).map(([kind, question]) => `    @${kind}) ${question} ;;`);
  const verbs = Object.keys(NOUNS).map(
    (noun) =>
      `    ${noun}) verbs='${verbsOf(known, noun)
        .map(({ verb }) => verb)
        .join(' ')}' ;;`,
  );
  const flags = known.map((one) => `    ${pattern(one.names)}) flags='${one.flags.flatMap(spellings).join(' ')}' ;;`);
  const behindDashes = known.filter((one) => one.behindDashes).flatMap(({ names }) => names);
  const passThrough = known.filter((one) => one.passThrough).flatMap(({ names }) => names);
  return `# bash completion for banger; made by: banger completion bash
_banger_ask() {
  case "$1" in
${questions.join('\n')}
  esac 2>/dev/null
}
_banger_verbs() {
  case "$1" in
${verbs.join('\n')}
    *) return 1 ;;
  esac
}
_banger_flags() {
  case "$1" in
${flags.join('\n')}
  esac
}
# what the value of an option is; fails for an option without one
_banger_value() {
  offers=()
  case "$1" in
${known.flatMap(valueCase).join('\n')}
    *) return 1 ;;
  esac
}
# what an argument is, by its position
_banger_argument() {
  offers=()
  case "$1" in
${known.flatMap(argumentCase).join('\n')}
  esac
}
# words that begin like $1 and are what offers says
_banger_offer() {
  local what names='' named='' action=''
  COMPREPLY=()
  for what in "\${offers[@]}"; do
    case "$what" in
      @file) action=-f ;;
      @directory) action=-d ;;
      @vm-path)
        action=-f
        if [[ $1 != *[:/]* ]]; then names=$(_banger_ask @vm) names=\${names//$'\\n'/:$'\\n'}\${names:+:}; fi ;;
      @*) named=1 names+=$'\\n'$(_banger_ask "$what") ;;
      *) names+=$'\\n'$what ;;
    esac
  done
  if [[ -n $names ]]; then mapfile -t COMPREPLY < <(IFS=$'\\n'; compgen -W '$names' -- "$1"); fi
  if [[ \${#COMPREPLY[@]} == 1 && $COMPREPLY == *[:=] ]]; then compopt -o nospace; fi
  # where a name may stand, a path has a slash
  if [[ -n $action && ( -z $named || $1 == */* ) ]]; then
    if ((\${#COMPREPLY[@]} == 0)); then compopt -o filenames; fi
    mapfile -t -O \${#COMPREPLY[@]} COMPREPLY < <(compgen $action -- "$1")
  fi
}
_banger() {
  local line=\${COMP_LINE:0:COMP_POINT} word words=() command first=1 last i position=0 cur begun='' before
  local verbs='' flags='' offers=()
  # bash cuts words at these, which options with values, paths in VMs and files have
  for ((i = 0; i <= COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    if [[ $i != 0 && $line != [[:space:]]* && ( $word == [@=:]* || \${words[-1]} == *[@=:] ) ]]; then
      if ((i == COMP_CWORD)); then words[-1]+=$line; else words[-1]+=$word; fi
    else
      line=\${line#"\${line%%[![:space:]]*}"}
      if ((i == COMP_CWORD)); then words+=("$line"); else words+=("$word"); fi
    fi
    line=\${line#"$word"}
  done
  last=$((\${#words[@]} - 1))
  cur=\${words[last]}
  COMPREPLY=()
  while ((first < last)) && [[ \${words[first]} == -* ]]; do ((first++)); done
  if ((first == last)); then
    mapfile -t COMPREPLY < <(compgen -W '${firstWords(known).join(' ')} --help --version' -- "$cur")
    return
  fi
  command=\${words[first]}
  if _banger_verbs "$command"; then
    if ((++first == last)); then
      mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$cur")
      return
    fi
    command="$command \${words[first]}"
  fi
  for ((i = first + 1; i < last; i++)); do
    if [[ \${words[i]} != -* ]]; then ((position++))
    elif ((i + 1 < last)) && _banger_value "$command" "\${words[i]}"; then ((i++))
    fi
  done
  offers=()
  case "$command" in
    # after the name it is another program's command line
    ${pattern(passThrough)}) if ((position > 0)); then offers=(@file); fi ;;
    # and here after two dashes
    ${pattern(behindDashes)}) if [[ " \${words[*]:first:last-first} " == *' -- '* ]]; then offers=(@file); fi ;;
  esac
  if ((\${#offers[@]} == 0)); then
    if ((i > first + 1)) && [[ \${words[last-1]} == -* ]] && _banger_value "$command" "\${words[last-1]}"; then :
    elif [[ $cur == --*=* ]]; then
      begun=\${cur%%=*}=
      _banger_value "$command" "\${cur%%=*}" || return
    elif [[ $cur == -* ]]; then
      _banger_flags "$command"
      mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
      return
    else
      _banger_argument "$command" $position
    fi
  fi
  _banger_offer "\${cur#"$begun"}"
  # an answer takes the place of what bash holds for the word, which begins after the last cut
  before=\${COMP_WORDBREAKS//[!@=:]/}
  if [[ -n $before && $cur == *["$before"]* ]]; then before=\${cur%"\${cur##*["$before"]}"}; else before=''; fi
  for i in "\${!COMPREPLY[@]}"; do
    word=$begun\${COMPREPLY[i]}
    COMPREPLY[i]=\${word#"$before"}
  done
}
complete -F _banger banger`;
}

function valueCase({ names, flags }: Known): string[] {
  const byOffers = Map.groupBy(
    flags.filter(({ value }) => value !== undefined),
    ({ value }) => value?.offers.join(' ') ?? '',
  );
  if (byOffers.size === 0) return [];
  const cases = [...byOffers].map(([offers, same]: [string, Flag[]]) => {
    const set = offers === '' ? '' : ` offers=(${offers})`;
    return `${same.flatMap(spellings).join('|')})${set} ;;`;
  });
  return [`    ${pattern(names)}) case "$2" in ${cases.join(' ')} *) return 1 ;; esac ;;`];
}

function argumentCase({ names, args }: Known): string[] {
  const cases = args.flatMap(({ offers, rest }: Argument, position) =>
    offers.length === 0 ? [] : [`${rest ? '*' : position}) offers=(${offers.join(' ')}) ;;`],
  );
  return cases.length === 0 ? [] : [`    ${pattern(names)}) case "$2" in ${cases.join(' ')} esac ;;`];
}
