# Sidekiq: one process with ten threads, 200 jobs, retries, scheduled jobs. `ruby sidekiq_jobs.rb` is the scenario; the
# process it starts loads sidekiq_work.rb.
require "json"
require "redis"
require_relative "sidekiq_work"

CONDITION_DEADLINE_S = 30
JOBS = 200

def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

# Waits until the block is true; fails, saying +what+, when it does not become so.
def wait_until(what)
  deadline = now + CONDITION_DEADLINE_S
  until yield
    raise "not within #{CONDITION_DEADLINE_S} s: #{what}" if now > deadline
    sleep 0.005
  end
end

def expect(actual, expected)
  raise "got #{actual.inspect}, expected #{expected.inspect}" unless actual == expected
end

def runs(key) = Sidekiq.redis { |redis| redis.hgetall(key) }

CASES = {
  started: lambda do
    wait_until("the process has told of itself") { Sidekiq::ProcessSet.new.size == 1 }
    expect(Sidekiq::ProcessSet.new.map { |process| process["concurrency"] }, [10])
  end,
  two_hundred_jobs: lambda do
    JOBS.times { |n| CountedJob.perform_async("runs", n) }
    wait_until("all jobs have run") { runs("runs").length == JOBS }
    expect(runs("runs"), JOBS.times.to_h { |n| [n.to_s, "1"] })
    expect(Sidekiq::Stats.new.enqueued, 0)
  end,
  in_bulk: lambda do
    Sidekiq::Client.push_bulk("class" => CountedJob, "args" => JOBS.times.map { |n| ["bulk", n] })
    wait_until("all jobs have run") { runs("bulk").length == JOBS }
    expect(runs("bulk"), JOBS.times.to_h { |n| [n.to_s, "1"] })
  end,
  scheduled: lambda do
    CountedJob.perform_in(0.1, "later", 1)
    expect(Sidekiq::ScheduledSet.new.size, 1)
    wait_until("the scheduled job has run") { runs("later") == { "1" => "1" } }
  end,
  failing: lambda do
    FailingJob.perform_async
    wait_until("it waits to be retried") { Sidekiq::RetrySet.new.size == 1 }
    expect(Sidekiq::RetrySet.new.first["error_message"], "as it should")
  end
}.freeze

worker = Process.spawn(
  "sidekiq", "--require", File.join(__dir__, "sidekiq_work.rb"), "--concurrency", "10", "--environment", "production"
)
passed = []
failed = []
seconds = {}
CASES.each do |name, work|
  started = now
  begin
    work.call
    passed << name
  rescue StandardError => error
    failed << name
    warn "FAILED #{name}: #{error.full_message(highlight: false)}"
  end
  seconds[name] = now - started
end
Process.kill("TERM", worker)
Process.wait(worker)
failed << "the worker ended with #{$?}" unless $?.success?
# The process writes its own counts when it ends: both hundreds, the scheduled job, the failed one.
counted = [Sidekiq::Stats.new.processed, Sidekiq::Stats.new.failed]
counted == [2 * JOBS + 2, 1] ? passed << "counted" : failed << "counted: #{counted}"
puts "RESULT #{JSON.generate({ passed: passed, failed: failed, seconds: seconds })}"
exit(failed.empty? && !passed.empty?)
