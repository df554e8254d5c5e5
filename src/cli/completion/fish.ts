/** Completion for fish 3 and later. */
import { NOUNS } from '../entry.ts';
import { type Known, type Offer, QUESTIONS, spellings } from './known.ts';

export function fishScript(known: readonly Known[]): string {
  const questions = Object.entries(QUESTIONS).map(([kind, question]) => `    case @${kind}\n      ${question}`);
  const valueFlags = known.flatMap(({ names, flags }) => {
    const taking = flags.filter(({ value }) => value !== undefined).flatMap(spellings);
    return taking.length === 0 ? [] : [`    case ${list(names)}\n      contains -- $argv[2] ${taking.join(' ')}`];
  });
  const nouns = Object.entries(NOUNS).map(
    ([noun, about]) => `complete -c banger -n __banger_first -a ${noun} -d ${quoted(about)}`,
  );
  const help = `complete -c banger -n __banger_first -a help -d 'Show how to use a command'`;
  return `# fish completion for banger; made by: banger completion fish
function __banger_ask
  switch $argv[1]
${questions.join('\n')}
  end 2>/dev/null
end
# whether an option of a command takes a value
function __banger_takes_value
  switch $argv[1]
${valueFlags.join('\n')}
    case '*'
      false
  end
end
# the command on the line, and how many arguments it has before the cursor
function __banger_read
  set -l line (commandline -cp)
  test "$line" = "$__banger_line"; and return
  set -g __banger_line $line
  set -g __banger_command
  set -g __banger_position 0
  set -l words (commandline -opc)
  set -e words[1]
  while string match -q -- '-*' $words[1]
    set -e words[1]
  end
  set -q words[1]; or return
  set -g __banger_command $words[1]
  if contains -- $words[1] ${Object.keys(NOUNS).join(' ')}
    set -e words[1]
    set -q words[1]; or return
    set -g __banger_command "$__banger_command $words[1]"
  end
  set -e words[1]
  while set -q words[1]
    if not string match -q -- '-*' $words[1]
      set -g __banger_position (math $__banger_position + 1)
    else if __banger_takes_value "$__banger_command" $words[1]
      set -e words[1]
    end
    set -e words[1]
  end
end
function __banger_first
  __banger_read
  test -z "$__banger_command"
end
function __banger_in
  __banger_read
  contains -- "$__banger_command" $argv
end
function __banger_behind_dashes
  __banger_read
  contains -- -- (commandline -opc); and contains -- "$__banger_command" $argv
end
function __banger_at
  __banger_read
  test $__banger_position -eq $argv[1]; and contains -- "$__banger_command" $argv[2..]
end
function __banger_from
  __banger_read
  test $__banger_position -ge $argv[1]; and contains -- "$__banger_command" $argv[2..]
end
# the word at the cursor, or what it gives an option
function __banger_word
  commandline -ct | string replace -r -- '^--[^=]*=' ''
end
function __banger_path
  string match -q -- '*/*' (__banger_word)
end
function __banger_in_vm
  string match -q -r -- '^[^/:]+:' (__banger_word)
end
# words that are what the arguments say
function __banger_offer
  set -l named
  for what in $argv
    switch $what
      case @directory
        # where a name may stand, a path has a slash
        if test -z "$named"; or __banger_path
          __fish_complete_directories (__banger_word) ''
        end
      case @vm-path
        __banger_path; or __banger_in_vm; or __banger_ask @vm | string replace -r '$' :
      case '@*'
        set named 1
        __banger_ask $what
      case '*'
        echo $what
    end
  end
end
complete -c banger -f
${[...nouns, help, ...known.flatMap(rules)].join('\n')}`;
}

function rules({ names, summary, flags, args, passThrough, behindDashes }: Known): string[] {
  const words = names.map((name) => {
    const [noun = '', verb] = name.split(' ');
    const [when, word] = verb === undefined ? ['__banger_first', noun] : [`'__banger_in ${noun}'`, verb];
    return `complete -c banger -n ${when} -a ${word} -d ${quoted(summary)}`;
  });
  const here = passThrough ? `__banger_at 0 ${list(names)}` : `__banger_in ${list(names)}`;
  const options = flags.flatMap(({ long, short, help, value }) => {
    const what = `-l ${long.slice(2)}${short ? ` -s ${short}` : ''}${value ? ' -r' : ''} -d ${quoted(help)}`;
    return value ? offering(here, what, value.offers) : [`complete -c banger -n ${quoted(here)} ${what}`];
  });
  const positionals = args.flatMap(({ rest, offers }, position) => {
    const when = `${rest ? '__banger_from' : '__banger_at'} ${position} ${list(names)}`;
    const shown: readonly Offer[] = passThrough && position > 0 ? ['@file'] : offers;
    return shown.length === 0 ? [] : offering(when, '', shown);
  });
  const behind = behindDashes ? offering(`__banger_behind_dashes ${list(names)}`, '', ['@file']) : [];
  return [...words, ...options, ...positionals, ...behind];
}

/** Rules that offer these: fish itself knows best about files, all else is asked for. */
function offering(when: string, what: string, offers: readonly Offer[]): string[] {
  const asked = offers.filter((offer) => offer !== '@file');
  const rule = (condition: string, how: string) => `complete -c banger -n ${quoted(condition)} ${what} ${how}`;
  // where a name may stand, a path has a slash
  const files = asked.length === 0 ? when : `${when}; and __banger_path`;
  return [
    ...(asked.length > 0 ? [rule(when, `-f -a ${quoted(`(__banger_offer ${asked.join(' ')})`)}`)] : []),
    ...(offers.includes('@file') ? [rule(files, '-F')] : []),
    ...(offers.includes('@vm-path') ? [rule(`${when}; and not __banger_in_vm`, '-F')] : []),
    ...(offers.length === 0 ? [rule(when, '-f')] : []),
  ];
}

function list(names: readonly string[]): string {
  return names.map(quoted).join(' ');
}

function quoted(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
}
