# What a guest does that means harm, one thing at a time: host and neighbours are told by whoever connects to port 7000
# which. Perl without its library, as test/support/lean-bundle.ts has it; numbers are those of Linux.
# Usage: perl hostile-guest.pl GATEWAY OUTSIDE
my ($gateway, $outside) = map { pack 'C4', split /\./ } @ARGV;
$SIG{HUP} = $SIG{PIPE} = $SIG{CHLD} = 'IGNORE';
syscall 112; # setsid: whoever began this may go
my $garbage = join '', map { chr int rand 256 } 1 .. 4096;
my $ugly = "\e[31m\e]0;owned\a\r" x 256;

sub address { pack 'S n a4 x8', 2, @_ }

sub entries { opendir my $directory, $_[0]; map { "$_[0]/$_" } grep { !/^\./ } readdir $directory }

sub line { open my $file, '<', $_[0] or return ''; scalar <$file> }

# programs by the path of their file, or by their name; twice, because some begin others again
sub ended {
  my ($wanted) = @_;
  for my $process ((grep { m{/\d+$} } entries('/proc')) x 2) {
    my $name = readlink("$process/exe") . ' ' . line("$process/comm");
    kill 9, $process =~ m{(\d+)} if $name =~ $wanted && $process ne "/proc/$$";
  }
}

sub ask {
  my ($name) = @_;
  join '', pack('n6', int rand 65536, 256, 1, 0, 0, 0), (map { chr(length) . $_ } split /\./, $name), pack 'C n2', 0, 1, 1;
}

sub frame { my ($type, $channel, $payload) = @_; pack('V3', $type, $channel, length $payload) . $payload }
sub field { my ($tag, $bytes) = @_; pack('V2', $tag, length $bytes) . $bytes }

my $round = 0;

my %deed = (
  busy => sub { 1 while 1 },

  console => sub {
    open my $console, '>', '/dev/ttyS0' or die;
    syswrite $console, $ugly while 1;
  },

  names => sub {
    socket my $socket, 2, 2, 0;
    while (1) {
      for my $name ('good.vm', rand() . '.vm', rand() . '.example', ('x' x 63 . '.') x 3 . 'vm') {
        send $socket, ask($name), 0, address(53, $gateway);
      }
      send $socket, substr($garbage, rand 4000, 96), 0, address(53, $gateway);
    }
  },

  neighbours => sub {
    my $index = line('/sys/class/net/eth0/ifindex');
    my $mac = pack 'H2' x 6, split /[:\n]/, line('/sys/class/net/eth0/address');
    socket my $socket, 17, 3, 0x0608;
    my $to = pack 'S n l S C C a8', 17, 0x0806, $index, 1, 0, 6, "\xff" x 6;
    while (1) {
      my $sender = substr($gateway, 0, 2) . pack 'n', rand 65536;
      my $request = pack 'n2 C2 n a6 a4 x6 a4', 1, 0x0800, 6, 4, 1 + int rand 2, $mac, $sender, $gateway;
      send $socket, "\xff" x 6 . $mac . pack('n', 0x0806) . $request, 0, $to;
    }
  },

  connections => sub {
    my @open;
    while (1) {
      socket my $socket, 2, 1, 6;
      fcntl $socket, 4, 2048;
      connect $socket, address(1 + int rand 65535, rand() < 0.5 ? $outside : $gateway);
      push @open, $socket;
      shift @open if @open > 900;
    }
  },

  login => sub {
    ended(qr/sshd/);
    socket my $server, 2, 1, 6;
    setsockopt $server, 1, 2, pack 'l', 1;
    bind $server, address(22, "\0" x 4);
    listen $server, 64;
    while (accept my $client, $server) {
      my $lie = $round++ % 4;
      next if fork;
      if ($lie == 0) { 1 while syswrite $client, "no banner yet $ugly\r\n" }
      if ($lie == 1) { syswrite $client, 'x' x 4096 while 1 }
      if ($lie == 2) { syswrite $client, "SSH-2.0-OpenSSH_9.2\r\n"; 1 while syswrite $client, $garbage }
      sleep 1 while 1;
    }
  },

  disks => sub {
    while (1) {
      for my $path ('/root/big', '/big') {
        open my $file, '>', $path;
        1 while syswrite $file, $garbage x 64;
        close $file;
        unlink $path;
      }
    }
  },

  agent => sub {
    ended(qr{/run/banger/agent});
    my ($name) = grep { line("$_/name") eq "fcqemu.vsock\n" } entries('/sys/class/virtio-ports');
    my $port;
    until (sysopen $port, '/dev/' . ($name =~ m{([^/]+)$})[0], 2) { select undef, undef, undef, 0.05 }
    my %credit;
    my $send = sub {
      my ($op, $stream, $payload) = @_;
      syswrite $port, pack('V4', $op, $stream, 0, length $payload) . $payload;
      $credit{$stream} -= length $payload;
    };
    $send->(1, 0, '');
    my ($in, $channel, %flooded) = ('');
    while (1) {
      my $ready = '';
      vec($ready, fileno $port, 1) = 1;
      # while nobody takes it, it waits
      my @flooded = grep { $credit{$_} > 8192 } keys %flooded;
      if (select $ready, undef, undef, @flooded ? 0 : undef) { sysread $port, $in, 65536, length $in }
      while (length $in >= 16) {
        my ($op, $stream, $argument, $length) = unpack 'V4', $in;
        last if length $in < 16 + $length;
        my $payload = substr $in, 16, $length;
        $in = substr $in, 16 + $length;
        if ($op == 2) {
          $credit{$stream} = 1 << 18;
          $send->(3, $stream, '');
          # says what it is, or something else
          my $hello = frame(32, 0, field(1, pack 'V', 1) . field(2, '9') . field(3, 'exec'));
          $send->(5, $stream, $round++ % 2 ? $garbage : $hello);
        }
        if ($op == 4) { delete $flooded{$stream} }
        if ($op == 7) { $credit{$stream} += $argument }
        if ($op == 5 && length $payload >= 12) { $flooded{$stream} = $channel = (unpack 'V3', $payload)[1] }
      }
      # a command that begins again and again, says nothing, and says so
      my $nothing = frame(33, $channel, field(33, pack 'V', 7)) . frame(35, $channel, '') . frame(9, $channel, pack 'V', 0);
      $send->(5, $_, $nothing x 64) for @flooded;
    }
  },
);

socket my $server, 2, 1, 6;
setsockopt $server, 1, 2, pack 'l', 1;
bind $server, address(7000, "\0" x 4);
listen $server, 8;
my $doing;
while (accept my $host, $server) {
  chomp(my $wanted = <$host>);
  if ($doing) { kill -9, $doing; kill 9, $doing }
  $doing = fork;
  if (!$doing) {
    setpgrp 0, 0;
    close $_ for $host, $server;
    ($deed{$wanted} || sub { sleep 1 while 1 })->();
    exit;
  }
  syswrite $host, "$wanted\n";
  close $host;
}
